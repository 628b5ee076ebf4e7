from cnn.optimizers import SGD

network, loss, losses = lenet(), SoftmaxCrossEntropy(), []
optimizer = SGD(network.parameters(), lr=0.1, momentum=0.9)
for step in range(20):
    batch = slice(32 * step, 32 * step + 32)
    logits = network.forward(digits.images[batch] / 255, training=True)
    losses.append(loss.forward(logits, digits.labels[batch]))
    network.backward(loss.backward())
    optimizer.step()
    network.zero_grad()
    print(f"step {step + 1:2}  loss {losses[-1]:.4f}")
plot(losses)
