/* Owns the codec of array blobs. Level 1: ids and log-probabilities gain little from more. */
#include "db/blob.h"

#include "base/memory.h"

#include <string.h>
#include <zstd.h>

#define BLOB_LEVEL 1

struct blob_coder {
    ZSTD_CCtx *compressor;
    ZSTD_DCtx *decompressor;
};

enum status byte_buffer_reserve(struct byte_buffer *buffer, size_t room)
{
    if (room <= buffer->room && buffer->data != NULL) {
        return STATUS_OK;
    }
    const size_t wanted = room < 2 * buffer->room ? 2 * buffer->room : room + 64;
    TRY(memory_resize(buffer->bytes, wanted, 1, &buffer->data));
    buffer->room = wanted;
    return STATUS_OK;
}

enum status byte_buffer_put(struct byte_buffer *buffer, const void *data, size_t n)
{
    size_t room;

    if (!size_add(buffer->bytes, n, &room)) {
        return status_set(STATUS_NO_MEMORY, "a buffer of more bytes than can be counted");
    }
    TRY(byte_buffer_reserve(buffer, room));
    if (n > 0) {
        memcpy(buffer->data + buffer->bytes, data, n);
    }
    buffer->bytes += n;
    return STATUS_OK;
}

void byte_buffer_dispose(struct byte_buffer *buffer)
{
    memory_free(buffer->data);
    *buffer = (struct byte_buffer){0};
}

enum status blob_coder_create(struct blob_coder **out)
{
    struct blob_coder *coder;

    *out = NULL;
    TRY(memory_alloc(1, sizeof(*coder), &coder));
    coder->compressor = ZSTD_createCCtx();
    coder->decompressor = ZSTD_createDCtx();
    if (coder->compressor == NULL || coder->decompressor == NULL) {
        blob_coder_destroy(coder);
        return status_set(STATUS_NO_MEMORY, "no memory for a zstd context");
    }
    *out = coder;
    return STATUS_OK;
}

void blob_coder_destroy(struct blob_coder *coder)
{
    if (coder == NULL) {
        return;
    }
    (void)ZSTD_freeCCtx(coder->compressor);
    (void)ZSTD_freeDCtx(coder->decompressor);
    memory_free(coder);
}

enum status blob_pack(struct blob_coder *coder, const void *data, size_t n, struct byte_buffer *out)
{
    out->bytes = 0;
    TRY(byte_buffer_reserve(out, ZSTD_compressBound(n)));
    const size_t written =
        ZSTD_compressCCtx(coder->compressor, out->data, out->room, data, n, BLOB_LEVEL);
    if (ZSTD_isError(written)) {
        return status_set(STATUS_NO_MEMORY, "zstd: %s", ZSTD_getErrorName(written));
    }
    out->bytes = written;
    return STATUS_OK;
}

static enum status unpack_zstd(struct blob_coder *coder, const void *data, size_t n,
                               struct byte_buffer *out)
{
    const unsigned long long size = ZSTD_getFrameContentSize(data, n);

    if (size > BLOB_BYTES_MAX) { /* also the two codes for unknown and damaged */
        return status_set(STATUS_BAD_FORMAT, "a blob of %zu bytes is no zstd frame of known size",
                          n);
    }
    TRY(byte_buffer_reserve(out, (size_t)size));
    const size_t written = ZSTD_decompressDCtx(coder->decompressor, out->data, out->room, data, n);
    if (ZSTD_isError(written) || written != size) {
        return status_set(STATUS_BAD_FORMAT, "a blob of %zu bytes does not decompress", n);
    }
    out->bytes = written;
    return STATUS_OK;
}

enum status blob_unpack(struct blob_coder *coder, const char *codec, const void *data, size_t n,
                        struct byte_buffer *out)
{
    out->bytes = 0;
    if (strcmp(codec, "zstd") == 0) {
        return unpack_zstd(coder, data, n, out);
    }
    if (strcmp(codec, "raw") != 0) {
        return status_set(STATUS_BAD_FORMAT, "unknown blob codec \"%.16s\"", codec);
    }
    return byte_buffer_put(out, data, n);
}
