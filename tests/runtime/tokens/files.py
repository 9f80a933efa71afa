"""Small tokenizers of every kind that a bundle may have, and damaged ones; as a program, it opens many of those.

`python -m tests.runtime.tokens.files FOLDER CASES SEED` prints what came of each case, in one JSON object.
"""

from __future__ import annotations

import base64
import copy
import io
import json
import os
import random
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from ffrt import BundleError, RequestError
from ffrt.bundle.tokenizer_growth import REGEXES
from ffrt.stages.tokens import open_tokenizer, tokenize
from tests.bundles import make_tokenizer

DEMO = Path(__file__).parents[3] / "graphs" / "demo" / "tokenizer.json"
SENTENCES = ["a red circle moving right on a black background", "waves at night, seen from a boat", "ice & fire!"]
PROMPTS = ["a red circle", "ünï \ufb01 \ufdfa\u0301\ufeff夜 <|x|> </s>\0\u00ad", "x\u0301" * 200, " \n\t a", "🦊👩‍🚀"]
MAX_TOKENS = 8


def train_sentencepiece(vocab_size: int = 60) -> bytes:
    """A SentencePiece model of T5's kind, with the built-in table nmt_nfkc that T5's own have."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 40),
        model_writer=model,
        vocab_size=vocab_size,
        normalization_rule_name="nmt_nfkc",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=9,
    )
    return model.getvalue()


def t5(model: bytes) -> Tokenizer:
    """The `tokenizers` form of a SentencePiece model, with the parts of T5's released file."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    tokenizer = Tokenizer(models.Unigram([(p.piece, p.score) for p in proto.pieces], 2, False))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap),
            normalizers.Strip(left=False, right=True),
            normalizers.Replace(Regex(" {2,}"), "▁"),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    return tokenizer


def clip() -> Tokenizer:
    """Byte pairs with ends of words, between two special tokens, as CLIP's."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*letters, *(letter + "</w>" for letter in letters), "re", "red</w>", "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    merges = [("r", "e"), ("re", "d</w>")]
    model = models.BPE(vocabulary, merges, unk_token="<|endoftext|>", end_of_word_suffix="</w>")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(Regex(list(REGEXES)[2]), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    start, end = (("<|startoftext|>", len(pieces) - 2), ("<|endoftext|>", len(pieces) - 1))
    tokenizer.post_processor = processors.RobertaProcessing(sep=end, cls=start, add_prefix_space=False)
    tokenizer.add_special_tokens([start[0], end[0]])
    return tokenizer


def bert() -> Tokenizer:
    """Word pieces between [CLS] and [SEP]."""
    pieces = ["[UNK]", "[CLS]", "[SEP]", "a", "red", "circle", "##s", "##e", "ice"]
    model = models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return tokenizer


def sound_files() -> dict[str, str]:
    """The text of a tokenizer.json of every kind."""
    return {
        "demo": DEMO.read_text(encoding="utf-8"),
        "words": make_tokenizer().to_str(),
        "t5": t5(train_sentencepiece()).to_str(),
        "clip": clip().to_str(),
        "bert": bert().to_str(),
    }


STEPS: list[dict[str, Any]] = [
    {"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaaaa"},
    {"type": "Replace", "pattern": {"String": "e"}, "content": ""},
    {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": "ee"},
    {"type": "Prepend", "prepend": "▁"},
    *({"type": kind} for kind in ("NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "StripAccents", "ByteLevel")),
]
CHARSMAP = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
JUNK: list[Any] = [
    *(
        None,
        True,
        -1,
        0,
        3,
        2**31,
        2**32,
        2**64,
        1e308,
        -1e308,
        0.5,
        "",
        " ",
        "a",
        "A",
        "\0",
        "\ud800",
        "é" * 3,
        "x" * 5000,
    ),
    *([], {}, [[]], ["a", "b"], [0], {"type": "Sequence"}, CHARSMAP, {"type": "Precompiled"}, "AAAA", "/////w=="),
    *({"String": ""}, {"String": "a"}, {"Regex": "(a*)*b"}, {"Regex": r"\s+"}, {"type": "NFKC"}, {"type": "ByteLevel"}),
    *({"type": "Replace", "pattern": {"String": "e"}, "content": "eeeeeeee"}, {"type": "Prepend", "prepend": "▁"}),
    *({"type": "Metaspace", "replacement": "▁▁"}, {"type": "Strip", "strip_left": True, "strip_right": True}),
]


def places(value: Any, most: int = 12) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON value; of a vocabulary the first and last few."""
    found: list[tuple[Any, Any]] = []
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    for key in keys if len(keys) <= 2 * most else [*keys[:most], *keys[-most:]]:
        found += [(value, key), *places(value[key], most)]
    return found


def damaged(texts: list[str], rng: random.Random) -> bytes:
    """One of `texts` with up to three things wrong with it."""
    text = rng.choice(texts)
    if rng.random() < 0.1:
        raw = bytearray(text.encode())
        for _ in range(rng.randint(1, 4)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        return bytes(raw[: rng.choice([len(raw), rng.randrange(len(raw))])])
    file = json.loads(text)
    for _ in range(rng.choice([1, 1, 2])):
        change(file, json.loads(rng.choice(texts)), rng)
    return json.dumps(file).encode()


def change(file: dict[str, Any], other: dict[str, Any], rng: random.Random) -> None:
    """Change one place of `file`, perhaps to what stands at a place of `other`."""
    top = rng.choice(
        [key for key in ("normalizer", "pre_tokenizer", "post_processor", "model", "added_tokens") if file.get(key)]
        or list(file)
    )
    inside = places(file.get(top)) if rng.random() < 0.8 else places(file)
    holder, key = rng.choice(inside or places(file))
    match rng.randrange(8):
        case 0:
            del holder[key]
        case 1 | 2:
            holder[key] = copy.deepcopy(rng.choice(JUNK))
        case 3:
            giver, place = rng.choice(places(other))
            holder[key] = giver[place]
        case 4 if isinstance(holder, list):
            holder.extend(copy.deepcopy(holder[key]) for _ in range(rng.choice([1, 7, 40, 2000])))
        case 5:
            file[top] = other.get(top)
        case 6:
            bits(holder, key, rng)
        case _ if rng.random() < 0.2 and file.get("pre_tokenizer"):
            repeated = [copy.deepcopy(file["pre_tokenizer"]), other.get("pre_tokenizer")] * rng.choice([1, 2, 8])
            file["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": repeated}
        case _:
            steps = [one for one in (file.get("normalizer"), other.get("normalizer")) if one is not None]
            steps += [copy.deepcopy(rng.choice(STEPS))] * rng.choice([1, 2, 3, 30])
            for _ in range(rng.choice([1, 1, 1, 6, 150])):
                steps = [{"type": "Sequence", "normalizers": steps}]
            file["normalizer"] = steps[0]


def bits(holder: Any, key: Any, rng: random.Random) -> None:
    """Change single bits: of a table in base64, a text or a number."""
    value = holder[key]
    if isinstance(value, str) and len(value) > 1000:
        raw = bytearray(base64.b64decode(value + "=" * (-len(value) % 4)))
        for _ in range(rng.randint(1, 50)):
            raw[rng.randrange(rng.choice([8, 2048, len(raw)]))] ^= 1 << rng.randrange(8)
        holder[key] = base64.b64encode(raw[: rng.choice([len(raw), rng.randrange(len(raw))])]).decode()
    elif isinstance(value, str) and value:
        at = rng.randrange(len(value))
        holder[key] = value[:at] + chr(ord(value[at]) ^ 1 << rng.randrange(12)) + value[at + 1 :]
    elif type(value) is int:
        holder[key] = value ^ 1 << rng.randrange(34)


def outcome(path: Path) -> str:
    """What came of opening `path` and reading the prompts with it: refused, late (by a prompt) or read."""
    try:
        tokenizer = open_tokenizer(path, max_tokens=MAX_TOKENS)
    except BundleError:
        return "refused"
    late = False
    for prompt in PROMPTS:
        try:
            found = tokenize(tokenizer, "prompt", prompt, MAX_TOKENS)
        except RequestError:
            continue
        except BundleError:
            late = True
            continue
        if not 0 < len(found.ids) <= min(MAX_TOKENS, found.whole) or min(found.ids) < 0:
            return "wrong"
    return "late" if late else "read"


def main(folder: str, cases: str, seed: str) -> None:
    """Open `cases` damaged tokenizers, one after the other as FOLDER/tokenizer.json, which stays where one fails."""
    path, found = Path(folder) / "tokenizer.json", Counter[str]()
    texts = list(sound_files().values())
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (60 + int(cases) // 20,) * 2)
    for number in range(int(cases)):
        path.write_bytes(damaged(texts, random.Random(f"{seed} {number}")))
        came = outcome(path)
        found[came] += 1
        assert came in ("refused", "read"), (number, came)
    print(json.dumps(found))


def attack(folder: Path, cases: int, seed: int) -> Counter[str]:
    """Open damaged tokenizers in a process of their own, within 4 GiB; how many were refused, and how many read."""
    root = Path(__file__).parents[3]
    line = [sys.executable, "-m", "tests.runtime.tokens.files", str(folder), str(cases), str(seed)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "runtime"), str(root)])}
    done = subprocess.run(line, capture_output=True, text=True, env=environment, cwd=root, check=False)
    assert (done.returncode, done.stderr) == (0, ""), (folder, done.returncode, done.stderr)
    return Counter(json.loads(done.stdout))


if __name__ == "__main__":
    main(*sys.argv[1:])
