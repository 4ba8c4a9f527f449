"""Where journals are kept: one contract (``base``), one reference (``memory``), and the real ones."""
