"""What the image data sets are made of: files, hashes of their contents, addresses, pixels."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Source:
    """An image data set, as its authors publish it.

    Attributes:
        name: as in `bilevel compare NAME`, and of its folder.
        title: for readers.
        digests: file name -> SHA-256 (or MD5, which is half as long) of its *decompressed* bytes:
            copies that were compressed anew are the same data.
        addresses: folders on the web that hold the files, or the archive.
        folders: other names that its folder goes by.
        archive: a tar file that holds all files; empty where they come one by one.
        package: of Debian, which puts the files under /usr/share/datasets.
        pixels: D.
        mean: of a pixel over 255, one for each channel.
        deviation: the same, the standard deviation.
        reference: where it was published.
    """

    name: str
    title: str
    digests: dict[str, str]
    addresses: tuple[str, ...]
    folders: tuple[str, ...] = ()
    archive: str = ""
    package: str = ""
    pixels: int = 784
    mean: tuple[float, ...] = (0.5,)
    deviation: tuple[float, ...] = (0.5,)
    reference: str = ""


MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
FASHION_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
MNIST = Source(
    name="mnist",
    title="MNIST",
    digests=MNIST_SHA256,
    addresses=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    folders=("MNIST/raw",),
    mean=(0.1307,),
    deviation=(0.3081,),
    reference="LeCun, Bottou, Bengio, Haffner 1998",
)
FASHION_MNIST = Source(
    name="fashion-mnist",
    title="Fashion-MNIST",
    digests=FASHION_SHA256,
    addresses=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    folders=("FashionMNIST/raw",),
    package="dataset-fashion-mnist",
    mean=(0.286,),
    deviation=(0.353,),
    reference="Xiao, Rasul, Vollgraf 2017",
)
CIFAR10 = Source(
    name="cifar10",
    title="CIFAR-10",
    # only these hashes of the files inside the archive are published, in MD5: they tell damaged
    # files, and files of something else, from the data set
    digests={
        "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
        "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
        "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
        "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
        "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
        "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
    },
    addresses=("https://www.cs.toronto.edu/~kriz/",),
    folders=("cifar-10-batches-bin",),
    archive="cifar-10-binary.tar.gz",
    pixels=3072,
    mean=(0.4914, 0.4822, 0.4465),
    deviation=(0.2470, 0.2435, 0.2616),
    reference="Krizhevsky 2009",
)
SOURCES = {source.name: source for source in (MNIST, FASHION_MNIST, CIFAR10)}
