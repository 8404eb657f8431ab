/* SPDX-License-Identifier: Apache-2.0 */
/* acl.c - see the header. */
#include "core/acl.h"

#include <errno.h>
#include <string.h>

#include "core/format.h"

#define VERSION 2u
#define PERMS 7u

struct raw_entry {
	le16 tag, perm;
	le32 id;
};
static_assert(sizeof(struct raw_entry) == ACL_ENTRY_BYTES, "as Linux has it");

enum acl_kind acl_kind(const char *xattr_name)
{
	if (strcmp(xattr_name, ACL_NAME_ACCESS) == 0)
		return ACL_IS_ACCESS;
	return strcmp(xattr_name, ACL_NAME_DEFAULT) == 0 ? ACL_IS_DEFAULT : ACL_IS_NONE;
}

/* --- bytes --- */

/* The tags that may follow an entry, by its tag; of the last one: none. */
static unsigned may_follow(unsigned tag, bool named)
{
	switch (tag) {
	case 0:
		return ACL_TAG_OWNER;
	case ACL_TAG_OWNER:
	case ACL_TAG_USER:
		return ACL_TAG_USER | ACL_TAG_GROUP_OBJ;
	case ACL_TAG_GROUP_OBJ:
	case ACL_TAG_GROUP:
		return ACL_TAG_GROUP | ACL_TAG_MASK | (named ? 0 : ACL_TAG_OTHER);
	case ACL_TAG_MASK:
		return ACL_TAG_OTHER;
	default:
		return 0;
	}
}

static bool is_tag(unsigned tag)
{
	return tag && tag <= ACL_TAG_OTHER && !(tag & (tag - 1));
}

int acl_decode(const void *val, size_t len, struct acl *out)
{
	const uint8_t *p = val;
	unsigned last = 0;
	bool named = false;
	le32 version;

	if (len > ACL_MAX_BYTES)
		return -E2BIG;
	if (len < ACL_HEAD_BYTES || (len - ACL_HEAD_BYTES) % ACL_ENTRY_BYTES)
		return -EINVAL;
	memcpy(&version, p, sizeof(version));
	if (get32(version) != VERSION)
		return -EINVAL;
	out->n = (unsigned)((len - ACL_HEAD_BYTES) / ACL_ENTRY_BYTES);
	for (unsigned i = 0; i < out->n; i++) {
		struct raw_entry raw;

		memcpy(&raw, p + ACL_HEAD_BYTES + (size_t)i * ACL_ENTRY_BYTES, sizeof(raw));
		struct acl_entry e = {get16(raw.tag), get16(raw.perm), get32(raw.id)};
		bool has_id = e.tag == ACL_TAG_USER || e.tag == ACL_TAG_GROUP;

		if (!is_tag(e.tag) || !(may_follow(last, named) & e.tag) || e.perm > PERMS)
			return -EINVAL;
		if (has_id && e.id == ACL_NO_ID)
			return -EINVAL;
		if (!has_id)
			e.id = ACL_NO_ID;
		named = named || has_id;
		last = e.tag;
		out->entry[i] = e;
	}
	return last == ACL_TAG_OTHER ? 0 : -EINVAL;
}

bool acl_valid(const void *val, size_t len)
{
	struct acl acl;

	return acl_decode(val, len, &acl) == 0;
}

size_t acl_encode(const struct acl *a, uint8_t out[ACL_MAX_BYTES])
{
	le32 version = put32(VERSION);

	memcpy(out, &version, sizeof(version));
	for (unsigned i = 0; i < a->n; i++) {
		const struct acl_entry *e = &a->entry[i];
		struct raw_entry raw = {put16(e->tag), put16(e->perm), put32(e->id)};

		memcpy(out + ACL_HEAD_BYTES + (size_t)i * ACL_ENTRY_BYTES, &raw, sizeof(raw));
	}
	return ACL_HEAD_BYTES + (size_t)a->n * ACL_ENTRY_BYTES;
}

/* --- and the mode --- */

/* The entry of each class of the mode.  The group's bits are the mask's, if there is one. */
struct classes {
	struct acl_entry *owner, *group, *other;
	bool plain; /* nothing else is there */
};

static struct classes classes_of(struct acl *a)
{
	struct classes c = {.plain = true};

	for (unsigned i = 0; i < a->n; i++) {
		struct acl_entry *e = &a->entry[i];

		switch (e->tag) {
		case ACL_TAG_OWNER:
			c.owner = e;
			break;
		case ACL_TAG_GROUP_OBJ:
			c.group = e;
			break;
		case ACL_TAG_MASK: /* behind the group's */
			c.group = e;
			c.plain = false;
			break;
		case ACL_TAG_OTHER:
			c.other = e;
			break;
		default:
			c.plain = false;
		}
	}
	return c;
}

static uint32_t mode_of(const struct classes *c, uint32_t mode)
{
	return (mode & ~(uint32_t)0777) | (uint32_t)(c->owner->perm << 6 | c->group->perm << 3 | c->other->perm);
}

bool acl_to_mode(const struct acl *a, uint32_t *mode)
{
	struct classes c = classes_of((struct acl *)a);

	*mode = mode_of(&c, *mode);
	return c.plain;
}

void acl_set_mode(struct acl *a, uint32_t mode)
{
	struct classes c = classes_of(a);

	c.owner->perm = mode >> 6 & PERMS;
	c.group->perm = mode >> 3 & PERMS;
	c.other->perm = mode & PERMS;
}

bool acl_inherit(struct acl *a, uint32_t *mode)
{
	struct classes c = classes_of(a);

	c.owner->perm &= *mode >> 6 & PERMS;
	c.group->perm &= *mode >> 3 & PERMS;
	c.other->perm &= *mode & PERMS;
	*mode = mode_of(&c, *mode);
	return c.plain;
}
