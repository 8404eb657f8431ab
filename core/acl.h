/* SPDX-License-Identifier: Apache-2.0 */
/*
 * acl.h - POSIX ACLs as values: bytes to entries and back, and how they and a mode determine each other.  No I/O.
 *
 * The bytes are those of Linux's system.posix_acl_* attributes (docs/format.md).  A struct acl that acl_decode() has filled, and whatever
 * the functions below make of it, is well-formed: one entry each for the owner, the owning group and others, in order, and a mask if any
 * user or group is named.
 */
#ifndef HOLDFAST_CORE_ACL_H
#define HOLDFAST_CORE_ACL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ACL_NAME_ACCESS  "system.posix_acl_access"
#define ACL_NAME_DEFAULT "system.posix_acl_default"

/* Which of them is the attribute of this name? */
enum acl_kind { ACL_IS_NONE, ACL_IS_ACCESS, ACL_IS_DEFAULT };
enum acl_kind acl_kind(const char *xattr_name);

#define ACL_MAX_ENTRIES 511u /* the kernel takes at most a page of bytes */
#define ACL_HEAD_BYTES 4u
#define ACL_ENTRY_BYTES 8u
#define ACL_MAX_BYTES (ACL_HEAD_BYTES + ACL_MAX_ENTRIES * ACL_ENTRY_BYTES)

enum acl_tag {
	ACL_TAG_OWNER = 0x01,
	ACL_TAG_USER = 0x02,
	ACL_TAG_GROUP_OBJ = 0x04,
	ACL_TAG_GROUP = 0x08,
	ACL_TAG_MASK = 0x10,
	ACL_TAG_OTHER = 0x20,
};

struct acl_entry {
	uint16_t tag; /* enum acl_tag */
	uint16_t perm; /* 0..7 */
	uint32_t id; /* of a named user or group; else ACL_NO_ID */
};
#define ACL_NO_ID UINT32_MAX

struct acl {
	unsigned n;
	struct acl_entry entry[ACL_MAX_ENTRIES];
};

/* -EINVAL if it is not well-formed, -E2BIG if it is too long; then *out is not meaningful. */
int acl_decode(const void *val, size_t len, struct acl *out);

/* Is it one that acl_decode() takes? */
bool acl_valid(const void *val, size_t len);

/* Returns how many bytes it has written. */
size_t acl_encode(const struct acl *a, uint8_t out[ACL_MAX_BYTES]);

/* Sets the nine permission bits of *mode as an access ACL determines them.  True: they say all that the ACL says. */
bool acl_to_mode(const struct acl *a, uint32_t *mode);

/* After chmod(2): owner, others, and the mask or, without one, the owning group get the mode's bits. */
void acl_set_mode(struct acl *a, uint32_t mode);

/* Makes of a directory's default ACL the access ACL of what is created with *mode: both lose what the other does not
 * grant.  Returns as acl_to_mode(). */
bool acl_inherit(struct acl *a, uint32_t *mode);

#endif
