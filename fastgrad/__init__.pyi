from .errors import RangeWarning as RangeWarning
from .errors import TooLarge as TooLarge
from .growth import Growth as Growth
from .growth import growth as growth
from .measure import measure as measure
from .measure import warmup as warmup
from .networks import GRU as GRU
from .networks import LSTM as LSTM
from .networks import MLP as MLP
from .networks import RNN as RNN
from .networks import Network as Network
from .plots import plot_growth as plot_growth
from .weights import Constant as Constant
from .weights import Normal as Normal
from .weights import Orthogonal as Orthogonal
from .weights import Uniform as Uniform

__version__: str
