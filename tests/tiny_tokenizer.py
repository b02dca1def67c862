"""A tokenizer of 400 tokens."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SENTENCES = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.",
    "A dictionary of features is a partition of the sphere; each region has an exemplar.",
    "def add(a, b):\n    return a + b  # adds\n",
]
SPECIAL = ("<s>", "</s>", "<pad>")


def make_tokenizer(bos: str = "<s>", eos: str = "</s>", pad: str = "<pad>"):
    """A real byte-level BPE tokenizer, trained here on three sentences."""
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=bos, eos_token=eos, pad_token=pad, model_max_length=16
    )
