def step(weight, gradient, velocity, lr, momentum, weight_decay):
    gradient = gradient + weight_decay * weight
    velocity = momentum * velocity + gradient
    return weight - lr * velocity, velocity
