"""The one array type of the package: float64, as every array that is handed out."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
