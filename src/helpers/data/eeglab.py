"""EEGLAB's sample recording: one person, 32 channels, 128 Hz, 238 s of a visual attention task.

Two files of the EEGLAB repository at a fixed commit: ``.set`` holds the header, ``.fdt`` the samples.
"""

from __future__ import annotations

from pathlib import Path

import mne

from helpers.data import registry
from helpers.data.cohort import Provenance
from helpers.errors import BookError

COMMIT = "94b8557aa27484c4e2cb4775315802d420b93f32"
URL = f"https://raw.githubusercontent.com/sccn/eeglab/{COMMIT}/sample_data"
SHA256 = {
    "eeglab_data.set": "27594dc378685d25d5f5f762f4f8332e7a3d988b6d5d41832bb2252d93988718",
    "eeglab_data.fdt": "3ec388b9a080c723c00cd380403d64cc754929d828375bbd53bd83b468136759",
}
LICENCE = "BSD-2-Clause, with EEGLAB"
EYE_CHANNELS = ("EOG1", "EOG2")

provenance = Provenance(
    name="EEGLAB sample recording",
    source=URL,
    licence=LICENCE,
    citation="Delorme & Makeig 2004, doi:10.1016/j.jneumeth.2003.10.009",
    sha256=SHA256,
    notes="visual attention task; events 'square' (stimulus) and 'rt' (response)",
)


def fetch() -> Path:
    """Path of ``eeglab_data.set``, with its samples beside it; both downloaded on first use and verified.

    Errors: :class:`MissingData` when a file is neither here nor to be downloaded; :class:`BookError` when its
    hash differs.
    """
    paths = [
        registry.fetch(f"eeglab/{name}", f"{URL}/{name}", sha256, LICENCE) for name, sha256 in SHA256.items()
    ]
    return paths[0]


def load() -> mne.io.BaseRaw:
    """The recording, in volts: 30 scalp channels with positions, average reference, two beside the eyes."""
    path = fetch()
    try:
        raw = mne.io.read_raw_eeglab(path, preload=True, verbose="error")
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise BookError(
            f"{path.name} cannot be read by MNE ({type(error).__name__}); delete it and run again"
        ) from error
    raw.set_channel_types(dict.fromkeys(EYE_CHANNELS, "eog"), verbose="error")
    return raw.set_eeg_reference("average", verbose="error")
