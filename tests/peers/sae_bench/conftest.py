"""SAEBench brings torchvision, whose wheel does not load beside a CPU build of torch; nothing here sees pictures."""

import sys

sys.modules["torchvision"] = None  # transformers takes it for not installed
