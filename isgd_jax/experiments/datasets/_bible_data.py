"""The file format of Debian's package bible-kjv-text: text in LZW blocks.

A header of 92 bytes (the magic, zeros, and as big-endian 32-bit integers at 84
the bytes of a block and at 88 the number of blocks), then the blocks' offsets
and the file's length, then the blocks, each compressed by Unix `compress`. The
first has the three bytes of a `.Z` file before it, which are skipped.
"""

import os
import struct

from isgd_jax.experiments.datasets._files import read_file
from isgd_jax.experiments.errors import data_error

_MAGIC = b'EC02Compressed Data File'
_COUNTS_AT = 84
_OFFSETS_AT = 92
# LZW as `compress` has it: bytes, one code that clears the table, strings.
_CLEAR = 256
_MIN_WIDTH = 9
_MAX_WIDTH = 16


def read_bible_data(path: str | os.PathLike[str]) -> bytes:
  """Reads the text of such a file.

  Args:
    path: of the file.

  Returns:
    Its text.

  Raises:
    DataError: (a `ValueError`) the file cannot be read or is malformed.

  Example:
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = pathlib.Path(folder, 'bible.data')
    ...   _ = path.write_bytes(b'no such thing')
    ...   try:
    ...     read_bible_data(path)
    ...   except ValueError as error:
    ...     print(str(error).partition(': ')[2].partition(';')[0])
    found the first bytes b'no such thing'
  """
  data = read_file(path)

  def refuse(found: str) -> ValueError:
    return data_error(
      path,
      found,
      'the file of bible-kjv-text, whole',
      'install the package again (on Debian: apt reinstall bible-kjv-text)',
    )

  if not data.startswith(_MAGIC):
    raise refuse(f'the first bytes {data[: len(_MAGIC)]!r}')
  try:
    block_bytes, num_blocks = struct.unpack_from('>2I', data, _COUNTS_AT)
    offsets = struct.unpack_from(f'>{num_blocks + 1}I', data, _OFFSETS_AT)
  except struct.error as error:
    raise refuse(f'{len(data)} bytes, cut short in the header') from error
  if num_blocks < 1 or offsets[-1] != len(data):
    raise refuse(f'{len(data)} bytes where the header says {offsets[-1]}')
  blocks = []
  for i in range(num_blocks):
    try:
      block = expand_lzw(data[offsets[i] : offsets[i + 1]])
    except ValueError as error:
      raise refuse(f'block {i + 1} of {num_blocks} with {error}') from error
    is_last = i == num_blocks - 1
    if len(block) > block_bytes or (len(block) < block_bytes and not is_last):
      raise refuse(
        f'block {i + 1} of {num_blocks} with {len(block)} bytes of text, not '
        f'{block_bytes}'
      )
    blocks.append(block)
  return b''.join(blocks)


def expand_lzw(data: bytes) -> bytes:
  """Undoes Unix `compress` with codes of 9 to 16 bits, without its header.

  Codes come in groups of eight of one width, lowest bits first. Where the width
  grows or the table is cleared, the rest of a group is padding.

  Args:
    data: what follows the three bytes of a `.Z` file's header.

  Returns:
    What was compressed.

  Raises:
    ValueError: there is a code that stands for nothing yet.

  Example:
    >>> expand_lzw(bytes([0x41, 0x02, 0x02]))
    b'AAA'
  """
  strings = [bytes([i]) for i in range(_CLEAR)] + [b'']
  expanded = []
  previous = b''
  width = _MIN_WIDTH
  start = 0
  while start < len(data):
    group = int.from_bytes(data[start : start + width], 'little')
    num_codes = min(8 * width, 8 * (len(data) - start)) // width
    start += width
    mask = (1 << width) - 1
    for _ in range(num_codes):
      code = group & mask
      group >>= width
      if code == _CLEAR:
        del strings[_CLEAR + 1 :]
        previous = b''
        width = _MIN_WIDTH
        break
      if code < len(strings):
        string = strings[code]
      elif previous and code == len(strings):
        # The string that this very code completes.
        string = previous + previous[:1]
      else:
        raise ValueError(f'the code {code}, which stands for nothing')
      expanded.append(string)
      if previous and len(strings) < 1 << _MAX_WIDTH:
        strings.append(previous + string[:1])
      previous = string
      if len(strings) == 1 << width and width < _MAX_WIDTH:
        width += 1
        break
  return b''.join(expanded)
