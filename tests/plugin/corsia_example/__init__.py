"""Two models of a researcher's own: what a plug-in has to write, and no more."""

import torch

from pipelines.learners.imaging import ImageLearner
from pipelines.learners.torchmodel import TorchLearner


class WideNet(TorchLearner):
    """A network on rows of a table."""

    def build(self, settings):
        """`[pipeline.parameters.model] width` says how wide."""
        width = int(settings.get("width", 8))
        return torch.nn.Sequential(
            torch.nn.Linear(self.columns_in_use, width), torch.nn.Tanh(), torch.nn.Linear(width, 1)
        )

    def loss(self, output, target):
        """Logistic loss with a weight on positives."""
        weight = torch.tensor(2.0)
        return torch.nn.functional.binary_cross_entropy_with_logits(
            output[:, 0], target, reduction="none", pos_weight=weight
        )


class BrightNet(ImageLearner):
    """A network on images that looks at bright places alone."""

    def build(self, settings):
        """One convolution, and a line through all that it finds."""
        rows, columns = self.settings.size
        convolution = torch.nn.Conv2d(1, 4, 3, padding=1)
        return torch.nn.Sequential(
            convolution, torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * rows * columns, 1)
        )

    def transform(self, x):
        """Nothing below the mean."""
        return x.clip(min=0)
