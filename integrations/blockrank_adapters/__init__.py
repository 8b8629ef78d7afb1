"""What adapters of pydantic's frameworks share."""

from blockrank_adapters.model_options import ModelOptions

__all__ = ["ModelOptions"]
