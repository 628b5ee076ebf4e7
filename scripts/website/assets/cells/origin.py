import numpy as np

from cnn.layers import SoftmaxCrossEntropy

p = np.array([[0.1, 0.2, 0.25, 0.4, 0.05]])
loss = SoftmaxCrossEntropy()
print("L =", loss.forward(np.log(p), np.array([2])))
back = loss.backward()  # p − y
back
