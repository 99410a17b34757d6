"""A trained model that encodes images and texts, and makes and opens indexes of photos.

Shapes: B images or queries, P parts of a query, Q query tokens, E embedding width.
"""

from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gatedcir.data.ahead import ahead
from gatedcir.device import find_device
from gatedcir.errors import UserError
from gatedcir.evaluation.cross_encoder import CrossEncoderReranker, load_cross_encoder
from gatedcir.evaluation.reranking import MatchReranker, Reranker
from gatedcir.gallery.inputs import Query, pictures_of, texts_of
from gatedcir.gallery.judging import FileJudge
from gatedcir.gallery.onnx_folder import is_onnx, open_onnx
from gatedcir.gallery.opening import Opened, open_torch
from gatedcir.models.retriever import ComposedRetriever
from gatedcir.models.text import Tokens
from gatedcir.models.weights.sources import Pretrained
from gatedcir.search.index import Floats, Form
from gatedcir.start import Aux
from gatedcir.visual import take
from gatedcir.visualize.explained import Explained, Explanation, explained

if TYPE_CHECKING:
    from gatedcir.gallery.gallery import Gallery

AT_ONCE = 32  # images or texts of a batch


class Retriever:
    """A model on its device, for images and texts as they come. Reading is safe from threads."""

    def __init__(
        self, name: str, opened: Opened, *, reranker: str | None = None, encoder: Any = None
    ) -> None:
        self.name = name
        """What the model was opened by. A path is absolute."""
        self.model, self.transform, self.runs_on = opened.model, opened.transform, opened.runs_on
        self.identity, self.has_prompts = opened.identity, opened.has_prompts
        self.reranker = reranker
        """The name of the cross-encoder that judges in place of the model's matcher."""
        self._lock = Lock()  # the tokenizer is not safe from threads
        self._tokenizer = opened.tokenizer
        self._cross_encoder = encoder

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: str = "auto",
        runtime: str | None = None,
        found: Pretrained | None = None,
        reranker: str | None = None,
    ) -> "Retriever":
        """A model by any name that --model-path takes: a run, a folder, a hub name, or "tiny".

        Args:
            name: of the model.
            device: cpu, cuda, or one GPU such as cuda:1. auto: a GPU if there is one.
            runtime: torch, or onnx for a folder of `gatedcir export --format onnx`, which runs on
                the CPU. None: what the folder holds.
            found: the earlier result of `load` for this name.
            reranker: the cross-encoder that reranks in place of the model's matcher.

        Raises:
            UserError: nothing there, or not readable, or no such device or runtime.
        """
        where, path = find_device(device), Path(name)
        full = str(path.absolute()) if path.exists() else str(name)
        found_in = "onnx" if is_onnx(name) else "torch"
        if runtime not in (None, found_in):
            raise UserError(
                f"{name} is no model for the runtime {runtime!r}; give {found_in}, or write graphs "
                "with gatedcir export."
            )
        encoder = None if reranker is None else load_cross_encoder(reranker, str(where))
        graphs = found_in == "onnx"
        opened = open_onnx(path) if graphs else open_torch(str(name), where, found)
        return cls(full, opened, reranker=reranker, encoder=encoder)

    def form(self, precision: str = "fp16") -> Form:
        """The shape of an image's features, for an index."""
        return Form(self.model.num_query_tokens, self.model.embedding_width, precision)

    def encode_image(self, images: Any) -> Floats:
        """Target features: [Q, E] of one image, [B, Q, E] of a list, each of norm 1, float32.

        An image is a path, the bytes of a file, a PIL image, or an array [H, W, 3].

        Raises:
            UserError: one of them is no image or cannot be read.
        """
        pictures, one = pictures_of(images)
        found = self.encode_pixels([self.transform(picture) for picture in pictures])
        return found[0] if one else found

    def encode_query(self, image: Any, text: Any) -> Floats:
        """Query features: [E] of one query, [B, E] of several, each of norm 1, float32.

        Args:
            image: the reference, or a list of them, as `encode_image` takes them. None: the
                text alone.
            text: how to change it, or a list of texts. A text is a str, or a list of pairs
                (str, weight). The features of the pairs are added with their weights, and scaled
                to norm 1.

        Raises:
            UserError: as `encode_image`; a text is no text or too long; there are several images
                and another number of texts.
        """
        queries, one = self.queries(image, text)
        found = self.encode_queries(queries)[:, 0]
        return found[0] if one else found

    def queries(self, image: Any, text: Any) -> tuple[list[Query], bool]:
        """What a caller asks for, one by one, and whether it is one query.

        Raises:
            UserError: as `encode_query`; there is neither an image nor a text.
        """
        if image is None and text is None:
            raise UserError("a query needs an image, a text, or both; give one.")
        pictures, one_image = ([None], True) if image is None else pictures_of(image)
        texts, one_text = ([None], True) if text is None else texts_of(text)
        count = max(len(pictures), len(texts)) if pictures and texts else 0
        if not one_image and not one_text and len(pictures) != len(texts):
            raise UserError(
                f"there are {len(pictures)} images and {len(texts)} texts; give as many texts as "
                "images, or one of them alone."
            )
        each_image = list(pictures) * (count if one_image else 1)
        each_text = list(texts) * (count if one_text else 1)
        pairs = zip(each_image, each_text, strict=True)
        return [Query(*pair) for pair in pairs], one_image and one_text

    def encode_queries(self, queries: Sequence[Query]) -> Floats:
        """[M, P, E]: P is 1 with a text. An image alone is asked for by its Q target features."""
        found = [
            self._encode(queries[start : start + AT_ONCE])
            for start in range(0, len(queries), AT_ONCE)
        ]
        return np.concatenate(found) if found else np.empty((0, 1, self.form().dim), np.float32)

    @torch.inference_mode()
    def _encode(self, queries: Sequence[Query]) -> Floats:
        pixels = [self.transform(query.image) for query in queries if query.image is not None]
        if queries[0].text is None:
            return self.encode_pixels(pixels)
        parts = [
            (row, words, weight)
            for row, query in enumerate(queries)
            for words, weight in query.text or ()
        ]
        rows, words, weights = zip(*parts, strict=True)
        places, tokens = torch.tensor(rows), self._tokens(words)
        with self.runs_on.autocast():
            if pixels:
                levels = self.model.levels(torch.stack(pixels).to(self.runs_on.device))
                strengths = [queries[row].strength for row in rows]
                keep = None
                if any(strength != 1 for strength in strengths):
                    keep = torch.tensor(strengths, device=self.runs_on.device)[:, None]  # [B, 1]
                each, _ = self.model.encode_query(take(levels, places), tokens, keep=keep)
            else:
                each = self.model.encode_text(tokens, prompted=self.has_prompts)
        weighted = each.float().cpu() * torch.tensor(weights)[:, None]
        total = torch.zeros(len(queries), each.shape[1]).index_add_(0, places, weighted)
        return F.normalize(total, dim=-1)[:, None].numpy()

    @property
    def explains(self) -> bool:
        """Whether the fusions report what they do, which ONNX graphs do not."""
        return isinstance(self.model, ComposedRetriever)

    @property
    def judges(self) -> bool:
        """Whether there is a matcher or a cross-encoder to put the best images in order."""
        return self._cross_encoder is not None or self.model.matcher is not None

    def judge(self, query: Query, paths: Sequence[Path | None], similarity: Floats) -> Floats:
        """Its scores of files, as `FileJudge.scores`."""
        pixels = self._cross_encoder is None
        judge = FileJudge(self.transform, self._reranker, reads_pixels=pixels)
        return judge.scores(query, paths, similarity)

    def _reranker(self, known: Mapping[str, Any]) -> Reranker:
        """The judge of images by their names: of pictures, or of pixels for the matcher."""
        if self._cross_encoder is not None:
            return CrossEncoderReranker(self._cross_encoder, known.__getitem__)
        assert isinstance(self.model, ComposedRetriever)
        return MatchReranker(
            self.model,
            lambda texts: self._tokens(list(texts)),
            lambda names: torch.stack([known[name] for name in names]),
            self.runs_on,
        )

    @torch.inference_mode()
    def encode_pixels(self, pixels: Sequence[Tensor]) -> Floats:
        """Target features [B, Q, E] of images [3, H, W] after the transform."""
        found = []
        for start in range(0, len(pixels), AT_ONCE):
            batch = torch.stack(list(pixels[start : start + AT_ONCE])).to(self.runs_on.device)
            with self.runs_on.autocast():
                found.append(self.model.encode_target(batch).float().cpu())
        form = self.form()
        return torch.cat(found or [torch.empty(0, form.tokens, form.dim)]).numpy()

    def encode_files(
        self, files: Sequence[Path], *, num_workers: int
    ) -> Iterator[tuple[list[Path], Floats, dict[Path, str]]]:
        """Files batch by batch: those that can be read, their features, and why others cannot.

        Threads read the next batch while a GPU encodes one. A CPU's cores do one after the other:
        readers would hold up the threads of every operation.
        """
        with ThreadPool(max(1, num_workers)) as pool:
            starts = range(0, len(files), AT_ONCE)
            portions = (files[start : start + AT_ONCE] for start in starts)
            read = ((portion, pool.map(self._read, portion)) for portion in portions)
            on_cpu = self.runs_on.device.type == "cpu"
            for portion, results in read if on_cpu else ahead(read):
                pairs = list(zip(portion, results, strict=True))
                good = [(path, pixels) for path, pixels in pairs if isinstance(pixels, Tensor)]
                broken = {path: why for path, why in pairs if isinstance(why, str)}
                features = self.encode_pixels([pixels for _, pixels in good])
                yield [path for path, _ in good], features, broken

    def _read(self, path: Path) -> Tensor | str:
        try:
            return self.transform(self.transform.open(path))
        except UserError as error:
            return str(error)

    @torch.inference_mode()
    def explain(self, image: Any, text: str, target: Any = None) -> Explanation:
        """What the text does to the image, and which feature of a target matches best.

        Args:
            image: the reference, as `encode_image` takes it.
            text: how to change it.
            target: an image to compare the query with.

        Raises:
            UserError: as `encode_query`.
        """
        [query], _ = self.queries(image, text)
        return self.explain_query(query, None if target is None else self.encode_image(target))

    @torch.inference_mode()
    def explain_query(self, query: Query, features: Floats | None = None) -> Explanation:
        """The same for a query. Of several texts, the maps are those of the greatest weight.

        `features` are the target's, [Q, E].
        """
        maps = Explained(None, None, [])
        if query.image is not None and query.text is not None and self.explains:
            maps = explained(*self.reported(query))
        if features is None:
            return Explanation(maps)
        parts = self.encode_queries([query])[0]  # [P, E]
        return Explanation(maps, (features @ parts.T).mean(1))

    @torch.inference_mode()
    def reported(self, query: Query) -> tuple[Aux, list[tuple[str, list[int]]]]:
        """What the fusions report of an image and its text, and the text's words with their places.

        Of several texts, that of the greatest weight.
        """
        assert query.image is not None and query.text is not None
        words, _ = max(query.text, key=lambda part: part[1])
        pixels = self.transform(query.image)[None].to(self.runs_on.device)
        with self.runs_on.autocast():
            aux = self.model.encode_query(pixels, self._tokens([words]))[1]
        with self._lock:
            return aux, self._tokenizer.words(words)

    def _tokens(self, words: Sequence[str]) -> Tokens:
        with self._lock:
            return self._tokenizer(words).to(self.runs_on.device)

    def index(
        self,
        images: str | Path,
        *,
        to: str | Path,
        metadata: str | Path | None = None,
        skip_broken: bool = False,
        kind: str | None = None,
        num_workers: int = 2,
        watch_deleted: bool = False,
    ) -> "Gallery":
        """Index a folder of photos, or bring its index up to date, and open it.

        Args:
            images: the folder. Its sub-folders count too.
            to: the index, a new folder or one that this model made.
            metadata: a .csv or .jsonl file of what is known about the images.
            skip_broken: go on without files that cannot be read.
            kind: exact, large or embedded. By default that of the index, and exact for a new one.
            num_workers: threads that read images.
            watch_deleted: take files that have vanished from the folder out of the index.

        Raises:
            UserError: there are no images; the index is another model's, or in use; a file cannot
                be read, after all others are indexed.
        """
        from gatedcir.gallery.gallery import Gallery
        from gatedcir.gallery.indexing import Indexing

        with Indexing.at(Path(to), self, kind=kind) as indexing:
            report = indexing.sync(
                Path(images),
                metadata=None if metadata is None else Path(metadata),
                num_workers=num_workers,
                watch_deleted=watch_deleted,
            )
        report.check(skip_broken=skip_broken, way_out="pass skip_broken=True")
        return Gallery.open(to, self)

    def open(self, index: str | Path) -> "Gallery":
        """An index that this model made. UserError if another model made it."""
        from gatedcir.gallery.gallery import Gallery

        return Gallery.open(index, self)
