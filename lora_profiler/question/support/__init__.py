"""What can be answered and how: losses, packed rows, Liger's kernels, profiles, and the kernels
that attention takes."""
