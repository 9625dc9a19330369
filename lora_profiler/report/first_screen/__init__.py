"""What a person sees first of an answer: the verdict, what to change, a bar a method in the card's
frame, three numbers, and what it rests on. Texts and shares; faces draw them."""

from lora_profiler.report.first_screen.frame import Frame, MemoryBar, frame
from lora_profiler.report.first_screen.offers import Offer, offers
from lora_profiler.report.first_screen.texts import (
    Run,
    ThreeNumber,
    Trust,
    VerdictWords,
    three_numbers,
    trust,
    verdict_words,
)

__all__ = [
    "Frame",
    "MemoryBar",
    "Offer",
    "Run",
    "ThreeNumber",
    "Trust",
    "VerdictWords",
    "frame",
    "offers",
    "three_numbers",
    "trust",
    "verdict_words",
]
