"""Checkpoints on disk: reading the shapes of an existing one, and writing a new one while it is filled."""

from initium.io.safetensors import Checkpoint, CheckpointError, read_checkpoint
from initium.io.staging import replace_file
from initium.io.writer import CHUNK_BYTES, SHARD_SIZE, Piece, Written, is_folder, write_checkpoint

__all__ = [
    "CHUNK_BYTES",
    "SHARD_SIZE",
    "Checkpoint",
    "CheckpointError",
    "Piece",
    "Written",
    "is_folder",
    "read_checkpoint",
    "replace_file",
    "write_checkpoint",
]
