"""Conversations → text, and which parts of it are learnt."""
