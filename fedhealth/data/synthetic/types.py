"""The array types that the generator's files share."""

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
StoredPixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
