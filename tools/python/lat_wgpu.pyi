"""Person re-identification embeddings of the Locally Aware Transformer on any GPU."""

from os import PathLike
from typing import Optional, Sequence, Tuple, Union

import numpy
from numpy.typing import NDArray

Path = Union[str, "PathLike[str]"]

class Model:
    @staticmethod
    def open(
        path: Path, adapter: Optional[str] = None, precision: str = "f32", batch_size: Optional[int] = None
    ) -> "Model": ...
    def embed(
        self, images: Union[Path, Sequence[Path], NDArray[numpy.uint8], Sequence[NDArray[numpy.uint8]]]
    ) -> NDArray[numpy.float32]: ...
    @property
    def dim(self) -> int: ...
    @property
    def size(self) -> Tuple[int, int]: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def adapter(self) -> str: ...
    @property
    def notes(self) -> list[str]: ...
