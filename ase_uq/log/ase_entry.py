"""What ASE is told of logs, by the entry point `ase.ioformats` of the package.

It is loaded whenever somebody imports `ase.io`, so it imports nothing else. ASE takes a file for a log by its contents,
the signature of HDF5 and the name of the package after it, and not by the ending `.h5`, which belongs to everybody.
"""

from ase.utils.plugins import ExternalIOFormat

LOG_FORMAT = ExternalIOFormat(
    desc="Log of ase_uq with stored positions",
    code="+S",
    module="ase_uq.log.ase_format",
    magic_regex=rb"\x89HDF\r\n\x1a\n.*ase_uq_version",
)
