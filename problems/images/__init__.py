"""Image data sets from files: found on this machine or downloaded, checked, read with numpy."""

from problems.images.loading import Images, load

__all__ = ["Images", "load"]
