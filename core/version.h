/* SPDX-License-Identifier: Apache-2.0 */
/* version.h - what --version says.  The build defines it; this is for builds by hand. */
#ifndef HOLDFAST_VERSION
#define HOLDFAST_VERSION "0.1.0"
#endif
