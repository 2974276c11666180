"""Which files of a repository are meant, and how repositories are named."""

from __future__ import annotations

import pytest

from server.errors import ConfigError
from server.hub.choose import choose, quantizations
from server.hub.names import RepositoryName, parse_repository

PAIRS = [
    "model-7b-Q4_K_M.gguf", "model-13b-Q4_K_M.gguf",
    "mmproj-model-7b-f16.gguf", "mmproj-model-13b-f16.gguf",
]  # fmt: skip
FOLDERS = [
    "7b/model-Q4_K_M.gguf", "7b/mmproj-f16.gguf", "13b/model-Q4_K_M.gguf", "13b/mmproj-f16.gguf",
]  # fmt: skip
UNSLOTH = [
    "gemma-4-E2B-it-Q8_0.gguf", "MTP/gemma-4-E2B-it-Q8_0-MTP.gguf", "mmproj-F16.gguf",
    "mmproj-BF16.gguf", "mmproj-F32.gguf", "imatrix_unsloth.gguf",
]  # fmt: skip


@pytest.mark.parametrize(
    ("files", "selector", "model", "mmproj"),
    [
        (PAIRS, "model-7b-Q4_K_M.gguf", "model-7b-Q4_K_M.gguf", "mmproj-model-7b-f16.gguf"),
        (PAIRS, "model-13b-Q4_K_M.gguf", "model-13b-Q4_K_M.gguf", "mmproj-model-13b-f16.gguf"),
        (FOLDERS, "7b/model-Q4_K_M.gguf", "7b/model-Q4_K_M.gguf", "7b/mmproj-f16.gguf"),
        (UNSLOTH, "Q8_0", "gemma-4-E2B-it-Q8_0.gguf", "mmproj-F16.gguf"),
        (["g-Q4_K_M.gguf", "draft-g-Q4_K_M.gguf"], None, "g-Q4_K_M.gguf", None),
        (["g-Q4_K_M.gguf", "dflash-g-Q4_K_M.gguf"], "Q4_K_M", "g-Q4_K_M.gguf", None),
        (["g-Q4_K_M.gguf", "eagle3-g-Q4_K_M.gguf"], "q4_k_m", "g-Q4_K_M.gguf", None),
        (["imatrix.gguf", "g-Q6_K.gguf"], None, "g-Q6_K.gguf", None),
        (["X.Q4_K_M.gguf", "X.mmproj-Q8_0.gguf", "X.mmproj-f16.gguf"], None, "X.Q4_K_M.gguf",
         "X.mmproj-f16.gguf"),
        (["M-Q4_K_M.GGUF", "MMPROJ-F16.GGUF"], None, "M-Q4_K_M.GGUF", "MMPROJ-F16.GGUF"),
        (["g-UD-Q4_K_XL.gguf", "g-Q4_K_M.gguf"], "UD-Q4_K_XL", "g-UD-Q4_K_XL.gguf", None),
        (["llava-v1.5-7b.Q8_0.gguf", "mmproj-llava-v1.5-7b-f16.gguf",
          "llava-v1.6-7b.Q8_0.gguf", "mmproj-llava-v1.6-7b-f16.gguf"],
         "llava-v1.6-7b.Q8_0.gguf", "llava-v1.6-7b.Q8_0.gguf", "mmproj-llava-v1.6-7b-f16.gguf"),
    ],
)  # fmt: skip
def test_the_files_that_are_meant(
    files: list[str], selector: str | None, model: str, mmproj: str | None
) -> None:
    assert choose(files, "us/x", selector) == ([model], mmproj)


@pytest.mark.parametrize(
    ("files", "selector", "words"),
    [
        (PAIRS, "Q4_K_M", "several that fit: model-13b-Q4_K_M.gguf, model-7b-Q4_K_M.gguf; name"),
        (FOLDERS, None, "hf:us/x:13b/model-Q4_K_M.gguf"),
        (["m-Q8_0.gguf", *PAIRS[2:]], None, "several vision towers and none is named like m-Q8_0"),
        (["m-Q8_0-00001-of-00002.gguf"], None, "lacks m-Q8_0-00002-of-00002.gguf"),
        (["m-Q8_0.gguf", "mmproj-f16.gguf"], "mmproj-f16.gguf", "is a vision tower"),
    ],
)
def test_what_is_not_clear_is_refused_with_the_candidates(
    files: list[str], selector: str | None, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        choose(files, "us/x", selector)
    assert words in caught.value.message


def test_sets_of_parts_are_never_mixed() -> None:
    two = [f"m-Q4_K_M-0000{part}-of-00002.gguf" for part in (1, 2)]
    three = [f"m-Q4_K_M-0000{part}-of-00003.gguf" for part in (1, 2, 3)]
    assert choose([*three, *two], "us/x", "Q4_K_M") == (two, None)
    assert choose([*three, two[0]], "us/x", "Q4_K_M") == (three, None)


def test_other_quantizations_are_those_of_the_same_model() -> None:
    sizes = dict.fromkeys([*PAIRS, "model-7b-Q8_0.gguf", "draft-model-7b-Q8_0.gguf"], 5)
    sizes |= {"model-7b-f16-00001-of-00002.gguf": 7, "model-7b-f16-00002-of-00002.gguf": 3}
    assert quantizations(sizes, "model-7b-Q4_K_M.gguf") == {
        "model-7b-Q4_K_M.gguf": 5,
        "model-7b-Q8_0.gguf": 5,
        "model-7b-f16-00001-of-00002.gguf": 10,
    }


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("hf:us/vl", RepositoryName("us/vl")),
        ("HF:us/vl:Q8_0", RepositoryName("us/vl", None, "Q8_0")),
        ("hf:us/vl@v1.0:Q8_0", RepositoryName("us/vl", "v1.0", "Q8_0")),
        ("hf://us/vl", RepositoryName("us/vl")),
        ("https://huggingface.co/us/vl", RepositoryName("us/vl")),
        ("https://huggingface.co/us/vl/tree/main", RepositoryName("us/vl")),
        ("huggingface.co/us/vl/tree/v2", RepositoryName("us/vl", "v2")),
        ("https://hf.co/us/vl/blob/main/a%20b/x.gguf?download=true",
         RepositoryName("us/vl", None, "a b/x.gguf")),
        ("us/vl", None),
        ("demo", None),
        ("./hf/model.gguf", None),
    ],
)  # fmt: skip
def test_names_of_repositories(name: str, found: RepositoryName | None) -> None:
    assert parse_repository(name) == found


@pytest.mark.parametrize(
    "name", ["hf:tiny", "hf:", "hf:a/b/c", "hf:/b", "hf:us/v l", "hf:us/..", "hf:us/vl@",
             "https://huggingface.co/us", "hf:us/a--b", "hf:us/" + "x" * 200]
)  # fmt: skip
def test_misspelt_repositories(name: str) -> None:
    with pytest.raises(ConfigError, match="must read hf:OWNER/REPOSITORY"):
        parse_repository(name)
