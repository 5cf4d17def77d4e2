"""From a model to text: decoding, filters, streaming and chat, for every family (spec 21)."""
