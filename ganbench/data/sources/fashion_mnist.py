"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747)."""

from ganbench.data.sources.mnist import IdxSource


class FashionMNIST(IdxSource):
    """60,000 + 10,000 grey pictures of clothes, 28x28, padded to 32. Train and test as published."""

    title = "Fashion-MNIST, 60,000 grey 28x28 padded to 32, 10 classes (Xiao et al. 2017)"
    classes = ["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
    places = ("/usr/share/datasets/fashion-mnist",)  # Debian's package dataset-fashion-mnist
    download = "FashionMNIST"
    address = "https://github.com/zalandoresearch/fashion-mnist (or Debian's package dataset-fashion-mnist)"
