"""Images with captions: COCO, Karpathy's split of it, Visual Genome, SBU, and lists of objects."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from data_pipeline.samples.records import Record
from data_pipeline.sources.captioned_objects import Fields, pairs_of_list
from data_pipeline.sources.entries import Entry, EntryError, RefusedFileError, field_of, records_of_entries
from data_pipeline.sources.text_lines import LONG_LINE_PROBLEM, LongLine, open_text

NO_CAPTIONS = "image has no captions"
OrderedCaption = tuple[bool, int | str, str, str]
"""Whether the id of a caption is a text, the id, the caption, and its place in the source."""


def pairs_of_json(path: Path, root: Path, fields: Fields, splits: tuple[str, ...]) -> Iterator[Record]:
    """Yield the pairs of COCO captions, Karpathy's JSON, Visual Genome, SBU or a list of objects, whichever it is.

    splits: the splits of Karpathy's JSON to read. Raises RefusedFileError if the file is none of these.
    """
    with open_text(path) as file:
        text = file.read()
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RefusedFileError(path, "is not valid JSON", str(error), "rename JSON lines to .jsonl") from error
    if isinstance(content, list):
        if any(isinstance(entry, dict) and "regions" in entry for entry in content[:100]):
            return pairs_of_visual_genome(content, path, root)
        return pairs_of_list(content, path, root, fields, _refusal(path))
    if isinstance(content, dict) and "image_urls" in content:
        return _pairs_of_sbu_json(content, path, root)
    if isinstance(content, dict) and "annotations" not in content and content.get("images"):
        return pairs_of_karpathy(content, path, root, splits)
    return pairs_of_coco(content, path, root)


def _refusal(path: Path) -> Callable[[str], Exception]:
    return lambda first: RefusedFileError(
        path,
        "is neither COCO captions (images, annotations) nor Karpathy's JSON (images with sentences) nor Visual Genome "
        "regions nor SBU's image_urls and captions nor a list of objects with image and caption",
        first,
        "name the fields of a list with --image-column and --caption-column",
    )


def _elements(content: Any, field: str, path: Path) -> Iterator[Entry]:
    """Return the elements of a list in a field of a JSON file."""
    try:
        elements = field_of(content, field, list)
    except EntryError as error:
        raise _refusal(path)(str(error)) from error
    return (Entry(f"{field}_{n}", f"{path}: {field}[{n}]", element) for n, element in enumerate(elements))


def caption_of_coco(entry: Entry) -> tuple[int | str, OrderedCaption]:
    """Return the image of one of COCO's annotations, and its caption after its id: sorted, the captions of an image are
    in the order of their ids, numbers before texts. Raises EntryError."""
    number, image_id = (field_of(entry.content, name, int | str) for name in ("id", "image_id"))
    return image_id, (isinstance(number, str), number, field_of(entry.content, "caption", str), entry.place)


def pairs_of_coco(content: Any, path: Path, root: Path) -> Iterator[Record]:
    """Yield every caption of every image of captions_train2017.json, by the images' file names."""
    captions: dict[int | str, list[OrderedCaption]] = defaultdict(list)

    def add_caption(entry: Entry) -> tuple[()]:
        image_id, caption = caption_of_coco(entry)
        captions[image_id].append(caption)
        return ()

    def pairs(entry: Entry) -> Iterator[Record]:
        name, image_id = field_of(entry.content, "file_name", str), field_of(entry.content, "id", int | str)
        found = sorted(captions.pop(image_id, []))
        if not found:
            yield Record(name, problem=NO_CAPTIONS, place=entry.place)
        for number, (_, _, caption, place) in enumerate(found):
            yield Record(name, root / name, caption, number, {"image_id": image_id}, place=place)

    images, annotations = _elements(content, "images", path), _elements(content, "annotations", path)
    yield from records_of_entries(annotations, add_caption, _refusal(path))
    yield from records_of_entries(images, pairs, _refusal(path))
    for image_id, found in captions.items():
        for number, (*_, place) in enumerate(found):
            problem = "caption's image is not in the list of images"
            yield Record(str(image_id), caption_number=number, problem=problem, place=place)


def pairs_of_karpathy(content: dict[str, Any], path: Path, root: Path, splits: tuple[str, ...]) -> Iterator[Record]:
    """Yield the raw sentences of dataset_coco.json or dataset_flickr30k.json whose images are in the splits.

    Source: cs.stanford.edu/people/karpathy/deepimagesent.
    """

    def pairs(entry: Entry) -> Iterator[Record]:
        image, place = entry.content, entry.place
        name, sentences = field_of(image, "filename", str), field_of(image, "sentences", list)
        name = f"{image['filepath']}/{name}" if isinstance(image.get("filepath"), str) else name
        split = image.get("split")
        if isinstance(split, str) and splits and split not in splits:
            problem = f"image of another split than --image-splits (the first is of {split!r})"
            yield Record(name, problem=problem, place=place)
            return
        if not sentences:
            yield Record(name, problem=NO_CAPTIONS, place=place)
        for number, sentence in enumerate(sentences):
            if isinstance(sentence, dict) and isinstance(sentence.get("raw"), str):
                metadata = {"split": split} if split and isinstance(split, str) else {}
                yield Record(name, root / name, sentence["raw"], number, metadata, place=place)
            else:
                problem = f"sentence has no text in field 'raw' (number {number})"
                yield Record(name, caption_number=number, problem=problem, place=place)

    return records_of_entries(_elements(content, "images", path), pairs, _refusal(path))


def pairs_of_visual_genome(content: list[Any], path: Path, root: Path) -> Iterator[Record]:
    """Yield a pair per region of region_descriptions.json: its phrase and the whole image, as in VLMo and BEiT-3.

    The images lie in VG_100K and VG_100K_2, or all in one folder.
    """
    folders = [folder for name in ("VG_100K", "VG_100K_2") if (folder := root / name).is_dir()] or [root]

    @lru_cache(maxsize=1)  # an image has about fifty regions
    def found_path(name: str) -> Path:
        return next((folder / name for folder in folders if (folder / name).is_file()), folders[0] / name)

    def pairs(entry: Entry) -> Iterator[Record]:
        image, number = entry.content
        field_of(image, "regions", list)
        image_id = field_of(image, "id" if "id" in image else "image_id", int | str)
        name = f"{image_id}.jpg"
        if number is None:
            yield Record(name, problem=NO_CAPTIONS, place=entry.place)
            return
        region = image["regions"][number]
        phrase = field_of(region, "phrase", str)
        sides = {key: region.get(key) for key in ("x", "y", "width", "height")}
        box = {key: value for key, value in sides.items() if isinstance(value, int | float)}
        metadata = {"image_id": image_id, "region": box}
        yield Record(name, found_path(name), phrase, number, metadata, place=entry.place)

    return records_of_entries(_regions(content, path), pairs, _refusal(path))


def _regions(content: list[Any], path: Path) -> Iterator[Entry]:
    """Yield image and number of each region; the number is None for an image without regions."""
    for n, image in enumerate(content):
        regions = image.get("regions") if isinstance(image, dict) else None
        name = str(image.get("id", image.get("image_id", n))) if isinstance(image, dict) else str(n)
        if not regions or not isinstance(regions, list):
            yield Entry(name, f"{path}: [{n}]", (image, None))
            continue
        for number in range(len(regions)):
            yield Entry(f"{name}_{number}", f"{path}: [{n}].regions[{number}]", (image, number))


def _pairs_of_sbu_json(content: dict[str, Any], path: Path, root: Path) -> Iterator[Record]:
    """Yield the pairs of sbu-captions-all.json."""
    urls, captions = (
        [entry.content for entry in _elements(content, field, path)] for field in ("image_urls", "captions")
    )
    if len(urls) != len(captions):
        raise _refusal(path)(f"there are {len(urls)} image_urls and {len(captions)} captions")
    return _pairs_of_urls(zip(urls, captions, strict=True), root, f"{path}: captions[{{}}]", 0, _refusal(path))


def pairs_of_sbu(captions: Path, root: Path) -> Iterator[Record]:
    """Yield the pairs of SBU_captioned_photo_dataset_captions.txt and ..._urls.txt; URLs end in the images' names."""
    urls = captions.with_name(captions.name.replace("captions", "urls"))
    if urls == captions or not urls.is_file():
        raise ValueError(f"{captions} has no list of URLs beside it; SBU's is {urls.name.replace('captions', 'urls')}")
    num_captions, num_urls = _num_lines(captions), _num_lines(urls)
    if num_captions != num_urls:
        raise ValueError(f"{captions} has {num_captions} lines and {urls} has {num_urls}; they belong together by line")
    with open_text(captions) as caption_lines, open_text(urls) as url_lines:
        both = zip(url_lines, caption_lines, strict=True)
        refusal = _refusal(captions)
        yield from _pairs_of_urls(both, root, f"{captions}:{{}}", 1, refusal)


def _num_lines(path: Path) -> int:
    with open_text(path) as lines:
        return sum(1 for _ in lines)


def _pairs_of_urls(
    both: Iterable[tuple[Any, Any]], root: Path, place: str, first: int, refusal: Callable[[str], Exception]
) -> Iterator[Record]:
    """Yield a pair per URL and caption; the image is a file with the last part of the URL as its name."""

    def pair(entry: Entry) -> list[Record]:
        url, caption = entry.content
        if isinstance(url, LongLine) or isinstance(caption, LongLine):
            raise EntryError(LONG_LINE_PROBLEM)
        if not isinstance(url, str) or not isinstance(caption, str):
            raise EntryError("URL or caption is not text")
        name = url.strip().rpartition("/")[2]
        if not name:
            raise EntryError("URL has no file name")
        return [Record(name, root / name, caption.strip(), metadata={"url": url.strip()}, place=entry.place)]

    entries = (Entry(f"{n:08d}", place.replace("{}", str(n)), element) for n, element in enumerate(both, first))
    return records_of_entries(entries, pair, refusal)
