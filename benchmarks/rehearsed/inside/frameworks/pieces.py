"""A tokenizer of SentencePiece, run with it on PYTHONPATH: the folder that it is written to."""

import sys
from pathlib import Path

import sentencepiece  # type: ignore[import-not-found]

with open(Path(sys.argv[1]) / "tokenizer.model", "wb") as model:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" a" * 100, "Say a. Below is an instruction"] * 50),
        model_writer=model,
        vocab_size=290,
        byte_fallback=True,
        hard_vocab_limit=False,
        pad_id=3,
        minloglevel=2,
    )
