"""The offline evaluation: metrics, the lexical row, the report that a person reads."""
