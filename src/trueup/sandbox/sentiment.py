"""Sentiment of a text, from VADER's lexicon and rules (Hutto & Gilbert 2014)."""

from __future__ import annotations

from collections.abc import Callable

from trueup.core.errors import UserError


def sentiment_analyser(where: str) -> Callable[[str], float]:
    """The compound score of a text, from -1 to 1.

    Args:
        where: who asks, for the message.

    Raises:
        UserError: the package is not installed.
    """
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as error:
        raise UserError("needs vaderSentiment. Install it: pip install 'trueup[stories]'.", where=where) from error
    analyser = SentimentIntensityAnalyzer()
    return lambda text: float(analyser.polarity_scores(text)["compound"])
