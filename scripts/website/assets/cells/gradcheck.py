from cnn import Network
from cnn.data.sample import load_sample
from cnn.gradcheck import check_network
from cnn.layers import Conv2d, Flatten, Linear, MaxPool2d, ReLU


def lenet():
    network = Network(
        [
            Conv2d(6, kernel_size=5, padding=2), ReLU(), MaxPool2d(2),
            Conv2d(16, kernel_size=5), ReLU(), MaxPool2d(2),
            Flatten(), Linear(84), ReLU(), Linear(10),
        ]
    )
    network.build((1, 28, 28), rng=np.random.default_rng(0), dtype=np.float64)
    return network


digits = load_sample().train
report = check_network(
    lenet(), digits.images[:2] / 255, digits.labels[:2], backends=("reference",), entries=2
)
report
