"""Person re-identification on any GPU.

model = lat_wgpu.Model()
embeddings = model.embed(["a.jpg", "b.png"])   # (2, D) float32
for match in model.search("photos", "person.png")[0]:
    print(match.distance, match.path)
"""

import pathlib
from os import PathLike
from typing import Any, Callable, Dict, Iterable, Iterator, List, Literal, Mapping, Optional, Tuple, Union, final, overload

import numpy
from numpy.typing import NDArray
from PIL.Image import Image

_Path = Union[str, "PathLike[str]"]
_OneImage = Union[_Path, NDArray[numpy.uint8], Image]
_Images = Union[_OneImage, Iterable[_OneImage]]
_Embeddings = NDArray[numpy.float32]
_Config = Union[_Path, Mapping[str, Any]]
_OnEpoch = Callable[[Dict[str, Any]], object]

class Error(Exception):
    """An error of lat-wgpu. Its text is that of the command line; `hint` is the advice in it, or None."""

    hint: Optional[str]

class UsageError(Error, ValueError):
    """Settings that are impossible or contradict each other."""

class ImageError(Error, ValueError):
    """An image that can't be read."""

class WeightsError(Error, ValueError):
    """A model file that can't be used."""

class DataError(Error, ValueError):
    """Embeddings, labels or images that don't fit together, or no images."""

class FileError(Error, OSError):
    """A file that the system can't read or write."""

class NetworkError(Error, OSError):
    """A download that failed or isn't allowed."""

class AdapterError(Error, RuntimeError):
    """An adapter that failed, or none."""

class OutOfMemoryError(Error, MemoryError):
    """Work that needs more memory than the adapter has."""

class NotFiniteError(Error, ArithmeticError):
    """A training step whose loss or gradients overflow. The state before it is saved."""

@final
class Match:
    """A gallery image that a search found."""

    @property
    def row(self) -> int:
        """Place of the image in the gallery, from 0."""

    @property
    def path(self) -> Optional[str]:
        """The image's file, or its name in a stored gallery; None for an array."""

    @property
    def distance(self) -> float:
        """Squared Euclidean distance to the query, from 0 to 4."""

    @property
    def same(self) -> Optional[bool]:
        """True if both show the same person, by the model's threshold; None without a threshold."""

    @property
    def false_match_rate(self) -> Optional[float]:
        """Share of pairs of different persons that are as near, at most; None unless the model is calibrated."""

@final
class Ranking:
    """The matches of a query, nearest first: a sequence of Match."""

    @property
    def query(self) -> Optional[str]:
        """The query's file; None for an array."""

    @property
    def matches(self) -> List[Match]:
        """The matches as a list."""

    def __len__(self) -> int: ...
    def __getitem__(self, place: int, /) -> Match: ...
    def __iter__(self) -> Iterator[Match]: ...

@final
class Explanation:
    """The shares of an image's patches in its embedding."""

    @property
    def heatmap(self) -> NDArray[numpy.float64]:
        """Share of each patch: float64 (rows, columns). They sum to 1."""

    @property
    def parts(self) -> NDArray[numpy.float64]:
        """Share of each part from top to bottom: float64 (R,)."""

    @property
    def prefix(self) -> float:
        """Share of the tokens that are no patches, before the patches are scaled to 1."""

    @property
    def drawing(self) -> NDArray[numpy.uint8]:
        """The drawing of `lat-wgpu explain`: uint8 RGB pixels (H, W, 3)."""

@final
class Model:
    """A model on an adapter.

    model: a .safetensors file, a name that `lat-wgpu models` lists, or hf:OWNER/NAME. A name may download the model
        once. None takes the model that the command line takes without --model.
    adapter: part of the adapter's name, as listed by `lat-wgpu info`; None takes the best one.
    precision: "f32", or "f16" for weights and activations of 2 bytes.
    batch_size: images at once; None fills the adapter. Embeddings don't depend on it.
    flip: takes the mean of the embeddings of each image and its mirror image.
    camera: camera of all images, for a model with a camera embedding or statistics; "none" for no camera's row. None
        takes the cameras from the images' names.
    """

    def __new__(
        cls,
        model: Optional[_Path] = None,
        adapter: Optional[str] = None,
        precision: Literal["f32", "f16"] = "f32",
        batch_size: Optional[int] = None,
        flip: bool = False,
        camera: Optional[str] = None,
        *,
        progress: bool = False,
    ) -> "Model": ...
    @staticmethod
    def open(
        path: _Path,
        adapter: Optional[str] = None,
        precision: Literal["f32", "f16"] = "f32",
        batch_size: Optional[int] = None,
    ) -> "Model":
        """Opens a model: as Model(path, …)."""

    @overload
    def embed(
        self,
        images: _Images,
        on_error: Literal["raise"] = "raise",
        progress: bool = False,
        camera: Optional[str] = None,
    ) -> _Embeddings:
        """Embeds images: float32 (N, D), one row per image in order.

        images: a path of a file or folder; an image of Pillow; uint8 RGB pixels (N, H, W, 3); or an iterable of paths,
            images of Pillow and uint8 arrays (H, W, 3), which may be mixed and of any sizes. An iterator is read a few
            batches ahead. A folder is all images that `list_images` lists.
        on_error: "raise" raises ImageError for the first image that can't be read. "skip" leaves such images out and
            returns (embeddings, skipped): a dict of their places, from 0, with the exceptions.
        progress: shows a bar on stderr if that is a terminal.
        camera: camera of these images, in place of the model's.
        """

    @overload
    def embed(
        self,
        images: _Images,
        on_error: Literal["skip"],
        progress: bool = False,
        camera: Optional[str] = None,
    ) -> Tuple[_Embeddings, Dict[int, Error]]: ...
    def search(
        self,
        gallery: Union[_Images, _Embeddings],
        queries: Union[_Images, _Embeddings],
        top: int = 10,
        on_error: Literal["raise", "skip"] = "raise",
        progress: bool = False,
        camera: Optional[str] = None,
    ) -> List[Ranking]:
        """Finds the images of a gallery that are nearest to each query: a list of Ranking, one per query in order.

        gallery: a file or index folder of `lat-wgpu embed`, embeddings as float32 (N, D), or images as `embed` takes.
        queries: images as `embed` takes, or embeddings as float32 (N, D).
        top: number of matches per query.
        on_error: "raise", or "skip" for images that can't be read, which are logged: such a query has no Ranking.
        progress: shows a bar on stderr if that is a terminal.
        camera: camera of these images, in place of the model's.
        """

    def evaluate(
        self,
        data: _Path,
        *,
        ignore_cameras: bool = False,
        rerank: bool = False,
        query_expansion: bool = False,
        fpr: Optional[float] = None,
        progress: bool = False,
    ) -> Dict[str, Any]:
        """Scores the model on a data set: a dict with the keys of `lat-wgpu eval --json`, such as rank1, map and minp,
        which are shares from 0 to 1.

        data: folder of a data set, or a table of images (.csv).
        ignore_cameras: counts images of the same person by the same camera as matches.
        rerank: re-ranks by k-reciprocal encoding.
        query_expansion: replaces queries by weighted sums of their nearest gallery images.
        fpr: false positive rate to find a distance threshold for.
        progress: shows a bar on stderr if that is a terminal.
        """

    def explain(self, image: _OneImage, camera: Optional[str] = None) -> Explanation:
        """Explains an embedding: the share of each patch of the image in it, by attention rollout.

        image: a path, an image of Pillow, or uint8 RGB pixels (H, W, 3).
        camera: camera of this image, in place of the model's.
        """

    @property
    def name(self) -> str:
        """The model's name or file, as given."""

    @property
    def dim(self) -> int:
        """Dimensions of an embedding, of all parts together."""

    @property
    def size(self) -> Tuple[int, int]:
        """(height, width) in pixels that images are stretched to."""

    @property
    def batch_size(self) -> int:
        """Images per batch."""

    @property
    def adapter(self) -> str:
        """Name of the adapter."""

    @property
    def notes(self) -> List[str]:
        """Notes about the file, as printed by `lat-wgpu`."""

@final
class Run:
    """A run of `train` or `adapt`: a folder with its model and its log."""

    @property
    def path(self) -> pathlib.Path:
        """The run folder."""

    @property
    def model(self) -> Optional[pathlib.Path]:
        """The best model, for Model(run.model); None if no epoch is done."""

    @property
    def log(self) -> List[Dict[str, Any]]:
        """The lines of log.jsonl as dicts: steps, and epochs with `"kind": "epoch"`."""

    @property
    def epoch(self) -> Optional[int]:
        """Epoch of the best model, from 0; None if it isn't known."""

    @property
    def reason(self) -> str:
        """Reason for the choice of the best model."""

    @property
    def unfinished(self) -> Optional[str]:
        """Progress of a run that a limit of steps stopped, in words; None if it is finished."""

def list_images(folder: _Path) -> List[pathlib.Path]:
    """Lists the image files of a folder and the folders in it, in the order in which they are embedded.

    folder: a folder; its images are sorted by name. A file is listed as it is.
    """

def train(
    config: Optional[_Config] = None,
    *,
    out: _Path,
    resume: bool = False,
    on_epoch: Optional[_OnEpoch] = None,
    progress: bool = False,
    memory: Optional[int] = None,
    **keys: Any,
) -> Run:
    """Trains a model as `lat-wgpu train` does, and returns its Run.

    config: a configuration file (.toml), or a dict of its keys: sections as dicts, or names such as "optim.lr".
    out: run folder.
    resume: continues the run in that folder, bit for bit as if never stopped.
    on_epoch: called with each epoch's line of the log as a dict, after the line is written. An exception in it stops
        the run with its state saved, and is raised.
    progress: shows a bar and the epochs on stderr; the bar needs a terminal.
    memory: limit of device memory in bytes.
    keys: keys of the configuration, as in config, which win over it: data={"dir": "crops"}, preset="full".

    Ctrl-C stops the run after the current step, with its state saved.
    """

@overload
def adapt(
    model: Optional[_Path] = None,
    images: Optional[_Path] = None,
    *,
    out: _Path,
    statistics_only: Literal[False] = False,
    config: Optional[_Config] = None,
    resume: bool = False,
    on_epoch: Optional[_OnEpoch] = None,
    progress: bool = False,
    memory: Optional[int] = None,
    **keys: Any,
) -> Run:
    """Adapts a model to cameras without labels, as `lat-wgpu adapt` does: trains on clusters of the images and returns the
    Run; or with statistics_only stores the mean embedding of each camera, and returns a dict as its --json.

    model: a .safetensors file, a name, or hf:OWNER/NAME; None takes the model that the command line takes.
    images: folder of images by the cameras.
    out: run folder; with statistics_only the new model's file (.safetensors).
    statistics_only: trains nothing.
    config, resume, on_epoch, progress, memory, keys: as those of `train`. As model is an argument, keys of that section
        are in config or have names such as "model.size".
    """

@overload
def adapt(
    model: Optional[_Path] = None,
    images: Optional[_Path] = None,
    *,
    out: _Path,
    statistics_only: Literal[True],
    config: Optional[_Config] = None,
    resume: bool = False,
    on_epoch: Optional[_OnEpoch] = None,
    progress: bool = False,
    memory: Optional[int] = None,
    **keys: Any,
) -> Dict[str, Any]: ...
