/* SHA-256 as FIPS 180-4 gives it, HMAC as RFC 2104 does, and the proofs made of them. */
#include "ips_proof.h"

enum { BLOCK_BYTES = 64 };

typedef struct sha256 {
    uint32_t h[8];
    uint64_t length;
    uint8_t block[BLOCK_BYTES];
} sha256;

static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotated(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

static void compress(sha256 *s)
{
    uint32_t w[64], v[8];
    for (int i = 0; i < 16; i++) {
        const uint8_t *p = s->block + 4 * i;
        w[i] = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
    }
    for (int i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + w[i - 7] + (rotated(a, 7) ^ rotated(a, 18) ^ a >> 3) +
               (rotated(b, 17) ^ rotated(b, 19) ^ b >> 10);
    }
    memcpy(v, s->h, sizeof v);
    for (int i = 0; i < 64; i++) {
        uint32_t e = v[4], a = v[0];
        uint32_t first = v[7] + (rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25)) +
                         ((e & v[5]) ^ (~e & v[6])) + K[i] + w[i];
        uint32_t second = (rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22)) +
                          ((a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += first;
        v[0] = first + second;
    }
    for (int i = 0; i < 8; i++)
        s->h[i] += v[i];
}

static void begin(sha256 *s)
{
    static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(s->h, start, sizeof start);
    s->length = 0;
}

static void add(sha256 *s, const uint8_t *data, size_t length)
{
    while (length) {
        size_t at = (size_t)(s->length % BLOCK_BYTES), n = BLOCK_BYTES - at;
        n = n < length ? n : length;
        memcpy(s->block + at, data, n);
        s->length += n;
        data += n;
        length -= n;
        if (s->length % BLOCK_BYTES == 0)
            compress(s);
    }
}

static void end(sha256 *s, uint8_t out[PROOF_BYTES])
{
    static const uint8_t padding[BLOCK_BYTES] = {0x80};
    uint64_t bits = s->length * 8;
    uint8_t size[8];
    size_t at = (size_t)(s->length % BLOCK_BYTES);
    for (int i = 0; i < 8; i++)
        size[i] = (uint8_t)(bits >> (56 - 8 * i));
    add(s, padding, at < 56 ? 56 - at : 120 - at);
    add(s, size, sizeof size);
    for (int i = 0; i < PROOF_BYTES; i++)
        out[i] = (uint8_t)(s->h[i / 4] >> (24 - 8 * (i % 4)));
}

void ipsb_hmac_sha256(uint8_t out[PROOF_BYTES], const uint8_t *key, size_t key_length,
                      const uint8_t *data, size_t length)
{
    uint8_t inner[BLOCK_BYTES] = {0}, outer[BLOCK_BYTES], within[PROOF_BYTES];
    sha256 s;
    if (key_length > BLOCK_BYTES) {
        begin(&s);
        add(&s, key, key_length);
        end(&s, inner);
    } else if (key_length) {
        memcpy(inner, key, key_length);
    }
    for (int i = 0; i < BLOCK_BYTES; i++) {
        outer[i] = inner[i] ^ 0x5c;
        inner[i] ^= 0x36;
    }
    begin(&s);
    add(&s, inner, sizeof inner);
    add(&s, data, length);
    end(&s, within);
    begin(&s);
    add(&s, outer, sizeof outer);
    add(&s, within, sizeof within);
    end(&s, out);
}

static void prove(uint8_t out[PROOF_BYTES], const uint8_t *token, const char label[8],
                  const channel *c)
{
    uint8_t data[8 + 2 * NONCE_BYTES + 16], *ids = data + 8 + 2 * NONCE_BYTES;
    memcpy(data, label, 8);
    memcpy(data + 8, c->rank_nonce, NONCE_BYTES);
    memcpy(data + 8 + NONCE_BYTES, c->receiver_nonce, NONCE_BYTES);
    set64(ids, c->session);
    set64(ids + 8, c->receiver);
    ipsb_hmac_sha256(out, token, TOKEN_BYTES, data, sizeof data);
}

void ipsb_proof_of_rank(uint8_t out[PROOF_BYTES], const uint8_t *token, const channel *c)
{
    static const char label[8] = {'r', 'a', 'n', 'k'};
    prove(out, token, label, c);
}

void ipsb_proof_of_receiver(uint8_t out[PROOF_BYTES], const uint8_t *token, const channel *c)
{
    static const char label[8] = {'r', 'e', 'c', 'e', 'i', 'v', 'e', 'r'};
    prove(out, token, label, c);
}

bool ipsb_same_proof(const uint8_t *a, const uint8_t *b)
{
    uint8_t differs = 0;
    for (int i = 0; i < PROOF_BYTES; i++)
        differs |= a[i] ^ b[i];
    return !differs;
}
