"""An encoder of `transformers` with a classifier on its first token: small, or from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from iolaus.trainer.models.transformer import check_heads

__all__ = ["Encoder"]


class Encoder(nn.Module):
    """BERT with n_layers layers, drawn anew, or what a local folder holds.

    pretrained: a folder with config.json and weights, as `save_pretrained` writes it; the network
    is never asked. Its own sizes and dropout then count, and n_classes alone is taken from here.
    n_symbols, length: of the vocabulary and of the longest sequence. n_hidden: width within a
    layer's feed-forward part. Symbol 0 (of a folder: its own padding symbol) is not looked at.
    Raises ModuleNotFoundError without `transformers`, ValueError for a folder that is none of its.
    Source: Devlin et al., arXiv 1810.04805.
    """

    def __init__(
        self,
        n_symbols: int,
        n_classes: int,
        length: int,
        n_features: int = 32,
        n_heads: int = 2,
        n_hidden: int = 64,
        n_layers: int = 2,
        dropout: float = 0.1,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        self.net: Any
        self.is_read = pretrained is not None
        if pretrained is not None:
            self.net, self.padding = _read(Path(pretrained), n_classes)
            return
        check_heads(n_features, n_heads)
        try:  # here and not above: importing it takes seconds, and it is an extra
            from transformers.models.bert.configuration_bert import BertConfig
            from transformers.models.bert.modeling_bert import BertForSequenceClassification
        except ImportError as error:
            raise _missing(error) from error
        sizes: dict[str, Any] = {
            "vocab_size": n_symbols,
            "num_labels": n_classes,
            "max_position_embeddings": length,
            "hidden_size": n_features,
            "num_attention_heads": n_heads,
            "intermediate_size": n_hidden,
            "num_hidden_layers": n_layers,
            "hidden_dropout_prob": dropout,
            "attention_probs_dropout_prob": 0.0,  # no module of its own, so it would have no stream
            "attn_implementation": "eager",  # the fused kernel is slower under vmap
        }
        self.net, self.padding = BertForSequenceClassification(BertConfig(**sizes)), 0

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [n_examples, n_classes] for tokens [n_examples, length]."""
        is_word = tokens != self.padding
        if self.is_read:
            mask = is_word.long()
        else:  # what is added to the scores of attention: to make it itself BERT looks at values
            lowest = torch.finfo(self.net.dtype).min
            mask = (~is_word).to(self.net.dtype)[:, None, None, :] * lowest
        logits: Tensor = self.net(tokens, attention_mask=mask).logits
        return logits


def _read(folder: Path, n_classes: int) -> tuple[nn.Module, int]:
    """The model in a folder and its padding symbol."""
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"model.pretrained={folder}: there is no config.json; give a folder on this machine, "
            "as save_pretrained of transformers writes it"
        )
    try:
        from transformers import AutoModelForSequenceClassification
    except ImportError as error:
        raise _missing(error) from error
    try:
        net: Any = AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=n_classes, local_files_only=True, ignore_mismatched_sizes=True
        )
    except (OSError, KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"model.pretrained={folder} cannot be read: {reason}") from error
    if net.config.pad_token_id is None:
        raise ValueError(f"model.pretrained={folder}: its config names no pad_token_id")
    return net, int(net.config.pad_token_id)


def _missing(error: ImportError) -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f"model=encoder needs transformers ({error}): pip install transformers"
    )
