"""MNIST (LeCun, Cortes, Burges)."""

from ganbench.data.idx import IdxSource


class MNIST(IdxSource):
    """60,000 + 10,000 grey handwritten digits, 28x28, padded to 32. Train and test as published."""

    title = "MNIST, 60,000 grey 28x28 padded to 32, 10 classes (LeCun et al. 1998)"
    classes = [str(i) for i in range(10)]
    download = "MNIST"
    address = "https://ossci-datasets.s3.amazonaws.com/mnist/"
