"""What a language model gave for each token, kept so that it is right at every temperature."""

from ctkd_lightning.token_store._stored import StoredTokens
from ctkd_lightning.token_store.store import TokenStore
from ctkd_lightning.token_store.teacher import StoredTeacher
from ctkd_lightning.token_store.vllm import TopK, read_vllm, top_k_of_vllm
from ctkd_lightning.token_store.writer import TokenStoreWriter
from ctkd_lightning.token_store.writing import write_token_store

__all__ = [
    "StoredTeacher",
    "StoredTokens",
    "TokenStore",
    "TokenStoreWriter",
    "TopK",
    "read_vllm",
    "top_k_of_vllm",
    "write_token_store",
]
