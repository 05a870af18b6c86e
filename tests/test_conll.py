"""CoNLL files: what is read and what is refused; entities by conlleval's rules; WNUT-17."""

import sys
from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import secateur as sc
from secateur import conll, datasets

WNUT17 = datasets.find("wnut17", tuple(datasets._WNUT17))
needs_wnut17 = pytest.mark.skipif(not WNUT17, reason="WNUT-17 is not at hand")

TAGS = st.sampled_from(["O", "B-a", "I-a", "B-b", "I-b"])


def write(folder, content):
    path = folder / "a.conll"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_tabs_and_what_tweets_are_made_of(tmp_path):
    text = '#paris\tB-location\n2 nd\tO\n\xa0\tO\n\u2028\tO\n\x85\tO\n"\tO\n-\tO\n\ufe0f\tI-creative-work\n'
    (sentence,) = conll.read(write(tmp_path, text))
    assert sentence.tokens == ("#paris", "2 nd", "\xa0", "\u2028", "\x85", '"', "-", "\ufe0f")
    assert sentence.tags == ("B-location", *["O"] * 6, "I-creative-work")


def test_conll_2003(tmp_path):
    head = "-DOCSTART- -X- -X- O\n\n"
    first, second = "EU NNP B-NP I-ORG\nrejects  VBZ B-VP O \n\n", "Peter NNP I-NP I-PER\n"
    path = write(tmp_path, head + first + head + second)
    assert conll.read(path) == [
        conll.Sentence(("EU", "rejects"), ("I-ORG", "O"), 3),
        conll.Sentence(("Peter",), ("I-PER",), 8),
    ]
    # Other columns, and documents without blank lines around their beginning.
    path.write_text("x EU B-NP\n-DOCSTART-\ny Peter I-NP\n")
    assert [s.tokens for s in conll.read(str(path), token_column=1, tag_column=2)] == [("EU",), ("Peter",)]
    assert [s.tokens for s in conll.read(path, token_column=-2)] == [("EU",), ("Peter",)]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("blank", ["", "\t", "  ", "\t \t"])
@pytest.mark.parametrize("tail", ["", "\n", "\n\n\n"])
def test_blank_lines_are_no_sentences(tmp_path, end, blank, tail):
    lines = [blank, "a\tO", "b\tB-x", blank, blank, blank, "c\tO"]
    text = "\ufeff" + end.join(lines) + tail.replace("\n", end)
    assert conll.read(write(tmp_path, text)) == [
        conll.Sentence(("a", "b"), ("O", "B-x"), 2),
        conll.Sentence(("c",), ("O",), 7),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\tO\n\nb\n", r":3: expected columns 0 and -1, got 1 in all"),
        (b"a\tO\nb c\n", r":2: expected a tag O, B-type or I-type, got 'c'"),
        (b"a\tO\nb\t\n", r":2: expected a tag O, B-type or I-type, got ''"),
        (b"a\tO\nb\tO\t\n", r":2: expected a tag .* got ''"),
        (b"a\tB-\n", r":1: expected a tag .* got 'B-'"),
        (b"a\tE-x\n", r":1: expected a tag .* got 'E-x'"),
        (b"a\tOx\n", r":1: expected a tag .* got 'Ox'"),
        (b"a\tb-x\n", r":1: expected a tag .* got 'b-x'"),
        (b"a\tX" + b"\xe2\x80\xa8" * 1000 + b"\n", r":1: expected a tag .* got 'X\\u2028"),
        (b"\tO\n", r":1: empty token"),
        (b"a\tO\n \tO\n", r":2: empty token"),
        (b"a\tO\n\xff\tO\n", r":2: no UTF-8"),
        ("a\tO\n".encode("utf-16"), r":1: no UTF-8"),
        (b"a\tO\n\xe2\x82", r":2: no UTF-8"),
        (b"", r"a\.conll: no sentences"),
        (b"\xef\xbb\xbf", r"a\.conll: no sentences"),
        (b"\n\t\n-DOCSTART- O\n", r"a\.conll: no sentences"),
    ],
)
def test_what_is_refused(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(sc.FormatError, match=message) as error:
        conll.read(path)
    assert str(error.value).startswith(f"{path}:")
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < len(str(path)) + 400


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(sc.FormatError, match="missing: no such file"):
        conll.read(tmp_path / "missing")
    with pytest.raises(sc.FormatError, match=str(tmp_path)):
        conll.read(tmp_path)


def test_the_columns_exist_and_are_two(tmp_path):
    path = write(tmp_path, "a O\n")
    with pytest.raises(ValueError, match="tag_column: expected another"):
        conll.read(path, tag_column=0)
    for columns in ({"tag_column": 2}, {"tag_column": -3}, {"token_column": 1}, {"tag_column": -2}):
        with pytest.raises(sc.FormatError, match=r":1: expected columns .* got 2 in all"):
            conll.read(path, **columns)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(tmp_path_factory, data):
    path = write(tmp_path_factory.getbasetemp(), data)
    try:
        sentences = conll.read(path)
    except sc.FormatError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert all(len(s.tokens) == len(s.tags) > 0 for s in sentences)


@given(st.lists(st.lists(st.tuples(st.text("aé#\xa0\u2028-", min_size=1), TAGS), min_size=1), min_size=1))
def test_what_was_written_is_read(tmp_path_factory, rows):
    text = "\n\n".join("\n".join("\t".join(pair) for pair in row) for row in rows)
    found = conll.read(write(tmp_path_factory.getbasetemp(), text))
    assert [list(zip(s.tokens, s.tags, strict=True)) for s in found] == rows
    lines = text.split("\n")
    assert all(lines[s.line - 1] == f"{s.tokens[0]}\t{s.tags[0]}" for s in found)


# Entities


def conlleval(tags):
    """Tag by tag, as the script does it: is this the end of the one before, is this a beginning?"""
    found, start, before, before_type = [], None, "O", ""
    for i, tag in enumerate([*tags, "O"]):
        kind, _, type_ = tag.partition("-")
        ends = before != "O" and (kind in ("B", "O") or type_ != before_type)
        begins = kind != "O" and (kind == "B" or before == "O" or type_ != before_type)
        if ends:
            found.append((before_type, start, i))
        if begins:
            start = i
        before, before_type = kind, type_
    return found


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("", []),
        ("O O", []),
        ("B-a", [("a", 0, 1)]),
        ("I-a I-a", [("a", 0, 2)]),
        ("O I-a O I-a", [("a", 1, 2), ("a", 3, 4)]),
        ("B-a B-a I-a", [("a", 0, 1), ("a", 1, 3)]),
        ("B-a I-b I-a", [("a", 0, 1), ("b", 1, 2), ("a", 2, 3)]),
        ("I-a B-a", [("a", 0, 1), ("a", 1, 2)]),
        ("B-a-b I-a-b O", [("a-b", 0, 2)]),
    ],
)
def test_entities(tags, found):
    assert conll.entities(tags.split()) == conlleval(tags.split()) == found


@given(st.lists(TAGS, max_size=12))
def test_entities_are_those_of_conlleval(tags):
    assert conll.entities(tags) == conlleval(tags)


@pytest.mark.parametrize("tag", ["", "B", "B-", "E-a", "o", "a"])
def test_entities_of_other_tags(tag):
    with pytest.raises(ValueError, match="tags: expected O, B-type or I-type"):
        conll.entities(["O", tag])


def test_tag_set():
    tags = ("I-b", "B-b", "O", "B-a", "B-a-c")
    sentences = [conll.Sentence(tags, tags, 1), conll.Sentence(("x",), ("I-a",), 7)]
    assert conll.tag_set(sentences) == ["O", "B-a", "I-a", "B-a-c", "B-b", "I-b"]
    assert conll.tag_set([]) == []


# WNUT-17


@needs_wnut17
def test_wnut17():
    splits = datasets.load_tagging("wnut17")
    assert [len(split) for split in splits] == [3394, 1009, 1287]
    assert [sum(len(s.tokens) for s in split) for split in splits] == [62_730, 15_733, 23_394]
    types = ("corporation", "creative-work", "group", "location", "person", "product")
    counts = [(221, 140, 264, 548, 660, 142), (34, 105, 39, 74, 470, 114), (66, 142, 165, 150, 429, 127)]
    for split, expected in zip(splits, counts, strict=True):
        assert conll.tag_set(split) == ["O", *(f"{place}-{type_}" for type_ in types for place in "BI")]
        found = Counter(type_ for s in split for type_, _, _ in conll.entities(s.tags))
        assert found == dict(zip(types, expected, strict=True))


@needs_wnut17
def test_damaged_wnut17(tmp_path, monkeypatch):
    contents = {name: (WNUT17 / name).read_bytes() for name in datasets._WNUT17}
    monkeypatch.setenv("SECATEUR_DATA", str(tmp_path))
    (tmp_path / "wnut17").mkdir()
    for name, good in contents.items():
        for other, content in contents.items():
            (tmp_path / "wnut17" / other).write_bytes(content)
        for bad in (b"", good[:-1], good.replace(b"B-person", b"B-group", 1)):
            (tmp_path / "wnut17" / name).write_bytes(bad)
            with pytest.raises(sc.FormatError, match=f"{name}: damaged; remove it"):
                datasets.load_tagging("wnut17")


def test_wnut17_is_downloaded_into_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SECATEUR_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(sc.MissingExtraError, match=r"wnut17 is neither .* 'secateur\[data\]'"):
        datasets.load_tagging("wnut17")

    asked = []

    def retrieve(url, known_hash, fname, path):
        asked.append((url, known_hash))
        path.mkdir(parents=True, exist_ok=True)
        (path / fname).write_bytes((WNUT17 / fname).read_bytes() if WNUT17 else b"something else")

    monkeypatch.setitem(sys.modules, "pooch", SimpleNamespace(retrieve=retrieve))
    for _ in range(2):
        if WNUT17:
            assert len(datasets.load_tagging("wnut17")) == 3
        else:
            with pytest.raises(sc.FormatError, match="damaged"):
                datasets.load_tagging("wnut17")
    # The second time they are there.
    assert asked == [(datasets._WNUT17_SOURCE + name, known) for name, known in datasets._WNUT17.items()]


def test_unknown_names_of_tagged_data():
    for name in ("digits", "", "conll"):
        with pytest.raises(ValueError, match="choose from wnut17"):
            datasets.load_tagging(name)
