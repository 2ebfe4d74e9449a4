"""Model families, one file each: shape and its checks, counts, torchtitan's config, Hugging Face's config.

Planning reads shapes and counts from here, so nothing is imported with a family but pydantic: what needs torchtitan or
transformers imports them when it is called.
"""

from typing import Literal

Family = Literal["llama3", "qwen3", "deepseek_v3"]
