/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frame.c - one frame of the log: magic, length, payload, CRC.
 *
 * The CRC begins with what is not stored, the volume's uuid and the frame's LSN, so that a frame of another volume or of an
 * earlier lap of the ring fails here and nowhere else has to know about them.  Frames have no alignment: all access is by memcpy.
 * What a payload means, and where which frame may stand, is for the reader of the log.
 */
#include "core/bug.h"
#include "core/crc32c.h"
#include "journal/log.h"

#include <string.h>

uint32_t frame_crc(const struct super *sb, uint64_t lsn, const struct disk_frame *f, const void *payload)
{
	le64 at = put64(BUG(CRC_WITHOUT_LSN) ? 0 : lsn);
	uint32_t crc = crc32c(0, sb->uuid, UUID_BYTES);

	crc = crc32c(crc, &at, sizeof(at));
	crc = crc32c(crc, f, sizeof(*f));
	return crc32c(crc, payload, get32(f->len));
}

void frame_encode(const struct super *sb, uint64_t lsn, const void *payload, uint32_t len, void *out)
{
	struct disk_frame f = {.magic = put32(FRAME_MAGIC), .len = put32(len)};
	le32 crc = put32(frame_crc(sb, lsn, &f, payload));
	uint8_t *to = out;

	memcpy(to, &f, sizeof(f));
	if (len)
		memcpy(to + sizeof(f), payload, len);
	memcpy(to + sizeof(f) + len, &crc, sizeof(crc));
}

enum frame_state frame_decode(const struct super *sb, uint64_t lsn, const void *buf, uint64_t avail,
			      const void **payload, uint32_t *len)
{
	const uint8_t *from = buf;
	struct disk_frame f;
	le32 crc;

	if (avail < FRAME_OVERHEAD)
		return FRAME_SHORT;
	memcpy(&f, from, sizeof(f));
	if (get32(f.magic) == 0)
		return FRAME_ZERO;
	if (get32(f.magic) != FRAME_MAGIC)
		return FRAME_MAGIC_BAD;
	if (get32(f.len) > avail - FRAME_OVERHEAD)
		return FRAME_LENGTH;
	memcpy(&crc, from + sizeof(f) + get32(f.len), sizeof(crc));
	if (get32(crc) != frame_crc(sb, lsn, &f, from + sizeof(f)) && !BUG(BAD_FRAME_ACCEPTED))
		return FRAME_CRC;
	*payload = from + sizeof(f);
	*len = get32(f.len);
	return FRAME_OK;
}
