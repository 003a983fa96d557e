"""Writing and indexing shards, from made and from real-shaped sources; webdataset reads what we write."""

import io
import json
import tarfile
from pathlib import Path

import pytest
import webdataset
from PIL import Image

from data_pipeline.sample_reader import SampleReader
from data_pipeline.samples import BadSampleError
from data_pipeline.scenes import draw_samples
from data_pipeline.shard_index import read_index, write_index
from data_pipeline.sources import read_source
from data_pipeline.text_tokenizer import TextTokenizer
from data_pipeline.write_shards import ShardOptions, write_shards
from tests.tiny_run import TEXT_LENGTH, TinyData


def test_what_is_written_is_what_was_drawn_and_what_webdataset_reads(tmp_path: Path) -> None:
    index = write_shards(ShardOptions("pair", "scenes:25", tmp_path / "pairs", samples_per_shard=10))
    assert [shard.num_samples for shard in index.shards] == [10, 10, 5]
    drawn = list(draw_samples("pair", 25))
    reader = SampleReader(index, 1 << 20)
    ours = [(reader.key(i), reader.image_bytes(i), reader.text(i)) for i in range(25)]
    assert ours == [(s.key, s.image, s.text) for s in drawn]

    urls = [str(tmp_path / "pairs" / shard.name) for shard in index.shards]
    theirs = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [(s["__key__"], s["png"], s["txt"].decode()) for s in theirs] == ours
    assert json.loads(theirs[3]["json"]) == drawn[3].metadata


def test_equal_sources_give_equal_bytes(tmp_path: Path) -> None:
    fingerprints = [
        write_shards(ShardOptions("image", source, tmp_path / str(i))).fingerprint
        for i, source in enumerate(["scenes:5", "scenes:5", "scenes:5:1"])
    ]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_held_out_compositions_never_occur_in_training() -> None:
    held_out = {s.metadata["composition"] for s in draw_samples("pair", 300, split="held_out")}
    for kind in ("image", "pair", "text"):
        assert not held_out & {s.metadata["composition"] for s in draw_samples(kind, 1000)}  # type: ignore[arg-type]


def test_passages_are_whole_sentences_of_about_text_length(tiny_data: TinyData) -> None:
    tokenizer = TextTokenizer(tiny_data.folder / "text_tokenizer.spm")
    reader = SampleReader(read_index(tiny_data.folder / "texts"), 1 << 20)
    passages = [reader.text(i) for i in range(reader.index.num_samples)]
    lengths = [len(tokenizer.encode(passage)) + 2 for passage in passages]
    sentences = [s.text for s in read_source("text", "scenes:80", "train", 0.1)]
    assert " ".join(passages) == " ".join(str(sentence) for sentence in sentences)
    longest_sentence = max(len(tokenizer.encode(str(sentence))) + 2 for sentence in sentences)
    assert max(lengths) <= max(TEXT_LENGTH, longest_sentence)


def test_file_sources_split_by_key_and_keep_their_images(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    lines = []
    for i in range(40):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / "images" / f"{i}.webp", lossless=True)
        lines.append(json.dumps({"image": f"images/{i}.webp", "caption": f"number {i}", "text": f"document {i}."}))
    source = tmp_path / "pairs.jsonl"
    source.write_text("\n".join(lines) + "\n")
    for kind in ("pair", "image", "text"):
        train, held_out = (list(read_source(kind, str(source), split, 0.25)) for split in ("train", "held_out"))  # type: ignore[arg-type]
        assert len(train) + len(held_out) == 40 and 2 <= len(held_out) <= 20
        assert not {s.key for s in train} & {s.key for s in held_out}
    pairs = write_shards(ShardOptions("pair", str(source), tmp_path / "shards", held_out_fraction=0))
    reader = SampleReader(pairs, 1 << 20)
    assert reader.text(7) == "number 7"
    assert Image.open(io.BytesIO(reader.image_bytes(7))).getpixel((0, 0)) == (7, 0, 0)
    folder = list(read_source("image", str(tmp_path / "images"), "train", 0.0))
    assert len(folder) == 40


def test_shards_of_others_are_indexed_in_place(tmp_path: Path) -> None:
    png = io.BytesIO()
    Image.new("RGB", (4, 4)).save(png, "png")
    with webdataset.TarWriter(str(tmp_path / "00000.tar")) as writer:
        writer.write({"__key__": "a/000000001", "jpg": png.getvalue(), "txt": "one", "json": {"width": 4}})
        writer.write({"__key__": "a/000000002", "jpg": png.getvalue(), "json": {"width": 4}})  # has no caption
    before = (tmp_path / "00000.tar").read_bytes()
    index = write_index(tmp_path, "pair")
    assert index.num_samples == 1 and index.records[0]["key"] == b"a/000000001"
    assert write_index(tmp_path, "image").num_samples == 2
    assert (tmp_path / "00000.tar").read_bytes() == before


def test_damage_is_told_with_its_place(tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    index = write_shards(ShardOptions("pair", "scenes:3", folder))
    shard = folder / index.shards[0].name
    content = bytearray(shard.read_bytes())
    content[int(index.records[1]["image"]["offset"]) + 5] ^= 1
    shard.write_bytes(content)
    reader = SampleReader(read_index(folder), 1 << 20)
    reader.image_bytes(0)
    with pytest.raises(BadSampleError, match="bytes differ from the index"):
        reader.image_bytes(1)
    with pytest.raises(BadSampleError, match="exceeds max_member_bytes 10"):
        SampleReader(read_index(folder), 10).image_bytes(0)
    assert [reader.neighbor(i) for i in range(3)] == [1, 2, 0]

    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="is missing or has changed"):
        read_index(folder)
    with pytest.raises(ValueError, match=r"is no readable tar"):
        write_index(folder, "pair")


def test_a_corrupt_header_in_the_middle_is_not_taken_for_the_end(tmp_path: Path) -> None:
    index = write_shards(ShardOptions("image", "scenes:6", tmp_path / "images"))
    shard = tmp_path / "images" / index.shards[0].name
    content = bytearray(shard.read_bytes())
    header = int(index.records[3]["image"]["offset"]) - 512
    content[header : header + 512] = b"\xff" * 512
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=f"corrupt at byte {header}|is no readable tar"):
        write_index(tmp_path / "images", "image")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.jsonl", "does not exist"),
        ("scenes:many", "must read scenes:COUNT"),
        ("{folder}", "gives no samples of kind 'pair'"),
        ("{folder}/bad.jsonl", "line 1 of .* has no text in field 'caption'"),
    ],
)
def test_wrong_sources_are_refused(source: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"image": "a.png"}\n')
    with pytest.raises(ValueError, match=message):
        write_shards(ShardOptions("pair", source.format(folder=tmp_path), tmp_path / "out"))


def test_all_captions_of_an_image_are_kept_and_fall_on_one_side(tmp_path: Path) -> None:
    lines = []
    for i in range(20):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{i}.png")
        lines += [json.dumps({"image": f"{i}.png", "caption": f"image {i} caption {n}"}) for n in range(3)]
    source = tmp_path / "pairs.jsonl"
    source.write_text("\n".join(lines))
    sides = {}
    for split in ("train", "held_out"):
        index = write_shards(ShardOptions("pair", str(source), tmp_path / split, split=split, held_out_fraction=0.4))  # type: ignore[arg-type]
        reader = SampleReader(index, 1 << 20)
        sides[split] = [reader.text(i) for i in range(index.num_samples)]
    assert len(sides["train"]) + len(sides["held_out"]) == 60
    images = [{text.split()[1] for text in texts} for texts in sides.values()]
    assert not images[0] & images[1]


def test_members_are_grouped_as_webdataset_groups_them_and_a_repeated_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"

    def write(names: list[str]) -> None:
        with tarfile.open(path, "w") as tar:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = 3
                tar.addfile(member, io.BytesIO(b"abc"))

    write(["v1.0/a.jpg", "v1.0/a.txt", "v1.0/b.seg.jpg", "v1.0/b.txt"])
    assert [record["key"] for record in write_index(tmp_path, "pair").records] == [b"v1.0/a"]
    write(["a.jpg", "a.txt", "a.txt"])
    with pytest.raises(ValueError, match="key a has a second text"):
        write_index(tmp_path, "pair")


def test_a_folder_with_shards_is_not_written_into(tmp_path: Path) -> None:
    write_shards(ShardOptions("image", "scenes:2", tmp_path))
    with pytest.raises(ValueError, match="holds shards already"):
        write_shards(ShardOptions("image", "scenes:2", tmp_path))
    with pytest.raises(ValueError, match="needs --text-tokenizer"):
        write_shards(ShardOptions("text", "scenes:2", tmp_path / "texts"))


def test_a_tar_header_without_samples_is_no_index(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no .tar shard"):
        write_index(tmp_path, "image")
    with tarfile.open(tmp_path / "0.tar", "w"):
        pass
    with pytest.raises(ValueError, match="0.tar holds no sample with what kind 'image' needs"):
        write_index(tmp_path, "image")


def test_an_image_with_several_captions_is_one_image_and_several_pairs(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    lines = [{"image": "a.png", "caption": caption} for caption in ("one", "two")]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = str(tmp_path / "pairs.jsonl")
    for kind, count in (("image", 1), ("pair", 2)):
        options = ShardOptions(kind, source, tmp_path / kind, held_out_fraction=0)  # type: ignore[arg-type]
        assert write_shards(options).num_samples == count


def test_a_write_that_fails_can_be_repeated(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    lines = [{"image": name, "caption": "one"} for name in ("a.png", "missing.png")]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    options = ShardOptions("pair", str(tmp_path / "pairs.jsonl"), tmp_path / "out", 1, held_out_fraction=0)
    with pytest.raises(ValueError, match="missing.png does not exist"):
        write_shards(options)
    Image.new("RGB", (8, 8)).save(tmp_path / "missing.png")
    assert write_shards(options).num_samples == 2
