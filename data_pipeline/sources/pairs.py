"""Images with captions: COCO, Visual Genome, SBU, and JSON lines."""

import json
import reprlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_pipeline.sources.files import json_lines, line_without_text, open_text
from data_pipeline.sources.records import Record


def pairs_of_json(path: Path, root: Path) -> Iterator[Record]:
    """COCO captions, Visual Genome region descriptions or SBU's lists, told by their content.

    Raises ValueError where it is none of them.
    """
    with open_text(path) as file:
        text = file.read()
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error}); JSON lines are named .jsonl") from error
    try:
        yield from _pairs_of_content(content, root)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path} is neither COCO captions (images, annotations) nor Visual Genome regions nor SBU's image_urls and "
            f"captions: {error}"
        ) from error


def _pairs_of_content(content: Any, root: Path) -> Iterator[Record]:
    if isinstance(content, list) and content:
        return pairs_of_visual_genome(content, root)
    if isinstance(content, dict) and "image_urls" in content:
        urls, captions = _field(content, "image_urls", list), _field(content, "captions", list)
        if len(urls) != len(captions):
            raise ValueError(f"there are {len(urls)} image_urls and {len(captions)} captions")
        return pairs_of_urls(urls, captions, root)
    return pairs_of_coco(content, root)


def pairs_of_coco(content: dict[str, Any], root: Path) -> Iterator[Record]:
    """captions_train2017.json: every caption of every image, by the images' file names."""
    captions: dict[int | str, list[str]] = defaultdict(list)
    images, annotations = _field(content, "images", list), _field(content, "annotations", list)
    for annotation in sorted(annotations, key=lambda annotation: _field(annotation, "id", int | str)):
        captions[_field(annotation, "image_id", int | str)].append(_field(annotation, "caption", str))
    for image in images:
        name, image_id = _field(image, "file_name", str), _field(image, "id", int | str)
        found = captions.pop(image_id, [])
        if not found:
            yield Record(name, problem="image has no captions")
        for number, caption in enumerate(found):
            yield Record(name, root / name, caption, number, {"image_id": image_id})
    for image_id, found in captions.items():
        for number in range(len(found)):
            yield Record(str(image_id), caption_number=number, problem="caption's image is not in the list of images")


def pairs_of_visual_genome(content: list[dict[str, Any]], root: Path) -> Iterator[Record]:
    """region_descriptions.json: a phrase a region, with the whole image, as VLMo and BEiT-3 use it.

    The images lie in VG_100K and VG_100K_2, or all in one folder.
    """
    folders = [folder for name in ("VG_100K", "VG_100K_2") if (folder := root / name).is_dir()] or [root]
    for image in content:
        regions = _field(image, "regions", list)
        image_id = _field(image, "id" if "id" in image else "image_id", int | str)
        name = f"{image_id}.jpg"
        path = next((folder / name for folder in folders if (folder / name).is_file()), folders[0] / name)
        if not regions:
            yield Record(name, problem="image has no captions")
        for number, region in enumerate(regions):
            phrase = _field(region, "phrase", str)
            box = {key: region[key] for key in ("x", "y", "width", "height") if key in region}
            yield Record(name, path, phrase, number, {"image_id": image_id, "region": box})


def _field(entry: Any, name: str, form: Any) -> Any:
    """What an entry of a JSON file holds. Raises ValueError where it does not, or holds something else."""
    if not isinstance(entry, dict) or not isinstance(entry.get(name), form):
        raise ValueError(f"{name!r} is missing or wrong in {reprlib.repr(entry)}")
    return entry[name]


def pairs_of_sbu(captions: Path, root: Path) -> Iterator[Record]:
    """SBU_captioned_photo_dataset_captions.txt beside ..._urls.txt, line by line; images by the end of their URL."""
    urls = captions.with_name(captions.name.replace("captions", "urls"))
    if urls == captions or not urls.is_file():
        raise ValueError(f"{captions} has no list of URLs beside it; SBU's is {urls.name.replace('captions', 'urls')}")
    num_captions, num_urls = _num_lines(captions), _num_lines(urls)
    if num_captions != num_urls:
        raise ValueError(f"{captions} has {num_captions} lines and {urls} has {num_urls}; they belong together by line")
    with open_text(captions) as caption_lines, open_text(urls) as url_lines:
        yield from pairs_of_urls(url_lines, caption_lines, root)


def _num_lines(path: Path) -> int:
    with open_text(path) as lines:
        return sum(1 for _ in lines)


def pairs_of_urls(urls: Iterable[str], captions: Iterable[str], root: Path) -> Iterator[Record]:
    """SBU's lists, entry by entry; an image is a file named as its URL ends."""
    for url, caption in zip(urls, captions, strict=True):
        name = url.strip().rpartition("/")[2]
        yield Record(name, root / name, caption.strip(), metadata={"url": url.strip()})


def pairs_of_json_lines(path: Path, root: Path, image_column: str, caption_column: str) -> Iterator[Record]:
    """An image path and a caption, or a list of captions, a line."""
    for number, line in json_lines(path):
        name, found = line.get(image_column), line.get(caption_column)
        if not isinstance(name, str):
            yield line_without_text(path, number, line, image_column)
            continue
        captions = list(enumerate(found)) if found and isinstance(found, list) else [(None, found)]
        for caption_number, caption in captions:
            if isinstance(caption, str):
                yield Record(name, root / name, caption, caption_number)
            else:
                yield line_without_text(path, number, line, caption_column)
