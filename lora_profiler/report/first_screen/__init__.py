"""What a person sees first of an answer: the verdict, what to change, a bar a method in the card's
frame, three numbers, and what it rests on. Texts and shares; faces draw them."""
