"""Images with all of their captions: COCO, NoCaps, Karpathy's splits, Microsoft's index files, and lists of objects."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from data_pipeline.samples.records import Record
from data_pipeline.sources.annotated import AnnotatedFields, Unique
from data_pipeline.sources.entries import Entry, EntryError, RefusedFileError, field_of, records_of_entries
from data_pipeline.sources.pairs import OrderedCaption, caption_of_coco
from data_pipeline.sources.text_lines import json_lines, open_text


def captions_of_json(path: Path, fields: AnnotatedFields, splits: tuple[str, ...]) -> Iterator[Record]:
    """Yield the images of COCO's or NoCaps' captions, Karpathy's JSON, or a list of objects, whichever it is.

    splits: the splits of Karpathy's JSON to read. Images of a file without annotations have no captions, as those of a
    test split. Raises RefusedFileError if the file is none of these.
    """
    refusal = _refusal(path, fields)
    with open_text(path) as file:
        text = file.read()
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RefusedFileError(path, "is not valid JSON", str(error), "rename JSON lines to .jsonl") from error
    if isinstance(content, list):
        if not content:
            raise refusal("it is empty")
        entries = [Entry(f"{n:08d}", f"{path}: [{n}]", element) for n, element in enumerate(content)]
        return _grouped(entries, fields, refusal)
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise refusal("it has no list 'images'")
    images = [Entry(f"{n:08d}", f"{path}: images[{n}]", element) for n, element in enumerate(content["images"])]
    if any(isinstance(image.content, dict) and "sentences" in image.content for image in images[:100]):
        return _captions_of_karpathy(images, fields.root, splits, refusal)
    return _captions_of_coco(images, content.get("annotations"), path, fields.root, refusal)


def captions_of_json_lines(path: Path, fields: AnnotatedFields) -> Iterator[Record]:
    """Yield the images of JSON lines, Microsoft's (coco_captioning.train.jsonl, flickr30k.train.jsonl: one line per
    caption) or others, whose captions are a text or a list of texts."""
    return _grouped(json_lines(path), fields, _refusal(path, fields))


def _captions_of_coco(
    images: list[Entry], annotations: Any, path: Path, root: Path, refusal: Callable[[str], Exception]
) -> Iterator[Record]:
    """Yield the images of captions_val2017.json, nocaps_val_4500_captions.json or nocaps_test_image_info.json, with
    their captions in the order of the captions' ids, as pairs.py has it."""
    captions: dict[int | str, list[OrderedCaption]] = defaultdict(list)
    ids = Unique("image id")

    def add(entry: Entry) -> tuple[()]:
        image_id, caption = caption_of_coco(entry)
        captions[image_id].append(caption)
        return ()

    def image(entry: Entry) -> list[Record]:
        name, image_id = field_of(entry.content, "file_name", str), field_of(entry.content, "id", int | str)
        ids.add(image_id)
        found = [caption.strip() for _, _, caption, _ in sorted(captions.pop(image_id, []))]
        return [_record(name, root, image_id, found, entry.place)]

    if annotations is not None:
        if not isinstance(annotations, list):
            raise refusal("'annotations' is not a list")
        entries = (Entry(f"{n:08d}", f"{path}: annotations[{n}]", one) for n, one in enumerate(annotations))
        yield from records_of_entries(entries, add, refusal)
    yield from records_of_entries(images, image, refusal)
    for image_id in captions:
        yield Record(str(image_id), problem="caption's image is not in the list of images", place=str(path))


def _captions_of_karpathy(
    images: list[Entry], root: Path, splits: tuple[str, ...], refusal: Callable[[str], Exception]
) -> Iterator[Record]:
    """Yield the images of dataset_coco.json or dataset_flickr30k.json that are in the splits, with raw sentences."""
    ids = Unique("image id")

    def image(entry: Entry) -> list[Record]:
        content = entry.content
        name, sentences = field_of(content, "filename", str), field_of(content, "sentences", list)
        name = f"{content['filepath']}/{name}" if isinstance(content.get("filepath"), str) else name
        split = content.get("split")
        if isinstance(split, str) and splits and split not in splits:
            problem = f"image of another split than --image-splits (the first is of {split!r})"
            return [Record(name, problem=problem, place=entry.place)]
        image_id = content.get("cocoid", content.get("imgid", entry.name))
        ids.add(image_id)
        return [_record(name, root, image_id, [field_of(one, "raw", str).strip() for one in sentences], entry.place)]

    return records_of_entries(images, image, refusal)


def _grouped(
    entries: Iterable[Entry], fields: AnnotatedFields, refusal: Callable[[str], Exception]
) -> Iterator[Record]:
    """Yield a record per image of entries, each of which has one caption, a list of them, or none."""
    found: dict[str, Record] = {}

    def add(entry: Entry) -> tuple[()]:
        name, captions = fields.image_name(entry.content), _captions_in(entry.content, fields)
        image_id = entry.content.get("image_id", name)
        record = found.setdefault(name, _record(name, fields.root, image_id, [], entry.place))
        if record.metadata["image_id"] != image_id:
            raise EntryError(f"image has two ids ({record.metadata['image_id']!r:.60}, {image_id!r:.60})")
        record.metadata["captions"] += captions
        return ()

    yield from records_of_entries(entries, add, refusal)
    ids = Unique("image id")
    for record in found.values():
        try:
            ids.add(record.metadata["image_id"])
        except EntryError as error:
            yield Record(record.name, problem=str(error), place=record.place)
        else:
            yield record


def _captions_in(entry: dict[str, Any], fields: AnnotatedFields) -> list[str]:
    """Return the captions in an entry; none if the field is null, as in Microsoft's files of test splits."""
    if "text_segment" in entry:
        return [] if entry["text_segment"] is None else [fields.text_in(entry)]
    name = fields.text if fields.text in entry else "captions"
    if name not in entry:
        raise EntryError(f"entry has neither {fields.text!r} nor 'captions' (it has: {', '.join(entry):.200})")
    found = [] if entry[name] is None else entry[name]
    captions = [found] if isinstance(found, str) else found
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise EntryError(f"{name!r} is neither a text nor a list of texts ({found!r:.60})")
    return [caption.strip() for caption in captions]


def _record(name: str, root: Path, image_id: int | str, captions: list[str], place: str) -> Record:
    return Record(name, root / name, metadata={"image_id": image_id, "captions": captions}, place=place)


def _refusal(path: Path, fields: AnnotatedFields) -> Callable[[str], Exception]:
    what = (
        "is neither COCO's or NoCaps' captions (images, annotations) nor Karpathy's JSON (images with sentences) nor a "
        f"list or lines of objects with {fields.image!r} and {fields.text!r}"
    )
    return lambda first: RefusedFileError(path, what, first, "name the fields with --image-column and --caption-column")
