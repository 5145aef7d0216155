/* tool_gguf.c - for cli_gguf.sh: gguf DIR writes the tiny model into DIR twice, as the directory
 * tiny and as the file tiny.gguf. */
#include "tiny_gguf.h"

int main(int argc, char **argv)
{
    if (argc != 2) return 1;
    snprintf(files_dir, sizeof files_dir, "%s", argv[1]);
    tiny_gguf("tiny.gguf", (Otherwise){.quantized = 0});
    return test_failures > 0;
}
