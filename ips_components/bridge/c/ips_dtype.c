/* Types of cells by NumPy's names. */
#include <stdbool.h>
#include <string.h>

#include "ips_dtype.h"

int64_t ipsb_dtype(const char *name, char explicit_name[24])
{
    static const struct {
        const char *name, *code;
    } names[] = {
        {"bool", "b1"},    {"int8", "i1"},    {"int16", "i2"},   {"int32", "i4"},
        {"int64", "i8"},   {"uint8", "u1"},   {"uint16", "u2"},  {"uint32", "u4"},
        {"uint64", "u8"},  {"float16", "f2"}, {"float32", "f4"}, {"float64", "f8"},
        {"double", "f8"},  {"float", "f8"},   {"int", "i8"},     {"complex64", "c8"},
        {"complex128", "c16"},
    };
    static const struct {
        char kind;
        const char *sizes;
    } kinds[] = {{'b', " 1 "}, {'i', " 1 2 4 8 "}, {'u', " 1 2 4 8 "}, {'f', " 2 4 8 16 "},
                 {'c', " 8 16 32 "}};
    const uint16_t probe = 1;
    const char native = *(const uint8_t *)&probe ? '<' : '>';
    char order = 0, kind;
    int64_t size = 0;
    if (!name)
        return 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(name, names[i].name))
            name = names[i].code;
    if (*name && strchr("<>=|", *name))
        order = *name++;
    kind = *name;
    if (!kind || !strchr("biufcSUV", kind) || !name[1])
        return 0;
    for (name++; *name; name++) {
        if (*name < '0' || *name > '9' || size > 1 << 24)
            return 0;
        size = 10 * size + (*name - '0');
    }
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        char word[16] = " ";
        if (kinds[i].kind != kind)
            continue;
        if (size > 32)
            return 0;
        if (size >= 10) {
            word[1] = (char)('0' + size / 10);
            word[2] = (char)('0' + size % 10);
            word[3] = ' ';
        } else {
            word[1] = (char)('0' + size);
            word[2] = ' ';
        }
        if (!strstr(kinds[i].sizes, word))
            return 0;
    }
    if (size < 1)
        return 0;
    if (kind == 'S' || kind == 'V' || (size == 1 && kind != 'U'))
        order = '|';
    else if (order == 0 || order == '=' || order == '|')
        order = native;
    /* digits backwards, then turned */
    char digits[12];
    int n = 0, at = 0;
    for (int64_t rest = size; rest; rest /= 10)
        digits[n++] = (char)('0' + rest % 10);
    explicit_name[at++] = order;
    explicit_name[at++] = kind;
    while (n)
        explicit_name[at++] = digits[--n];
    explicit_name[at] = '\0';
    return kind == 'U' ? 4 * size : size;
}
