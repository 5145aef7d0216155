/* tool_blocks.c - numbers of a format, for tools/check_gguf.py: blocks NAME <BLOCKS >FLOATS */
#include "maths.h"

#include <stdio.h>

int main(int argc, char **argv)
{
    const Format *f = argc == 2 ? format_named(argv[1]) : NULL;
    unsigned char in[FORMAT_BLOCK_MAX * sizeof(double)];
    real out[FORMAT_BLOCK_MAX];
    if (!f) return 1;
    while (fread(in, f->bytes, 1, stdin) == 1) {
        f->unpack(out, in, 1);
        if (fwrite(out, sizeof *out, f->block, stdout) != f->block) return 1;
    }
    return 0;
}
