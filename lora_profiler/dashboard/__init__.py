"""The dashboard: pages turn widgets into a question, and answers into tables and figures. No torch
is loaded here."""
