def training_step(network, loss, optimizer, images, labels):
    value = loss.forward(network.forward(images, training=True), labels)
    network.backward(loss.backward())
    optimizer.step()
    network.zero_grad()
    return value
