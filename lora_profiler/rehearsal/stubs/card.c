/* libcudart: which card is pretended and how many of them, read once from the environment. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "device.h"

static _Thread_local int current;
static Card card;
static int count;
static pthread_once_t card_once = PTHREAD_ONCE_INIT;

static void read_card(void) {
    const char *text = getenv("LORA_PROFILER_CARD");
    if (!text || !*text) return;
    char *copy = strdup(text), *rest = NULL;
    for (char *field = strtok_r(copy, "|", &rest); field; field = strtok_r(NULL, "|", &rest)) {
        char *value = strchr(field, '=');
        if (!value) continue;
        *value++ = 0;
        const struct { const char *name; int *number; } numbers[] = {
            {"major", &card.major}, {"minor", &card.minor}, {"multiprocessors", &card.multiprocessors},
            {"shared_per_multiprocessor", &card.shared_per_multiprocessor}, {"shared_per_block",
                &card.shared_per_block},
            {"threads_per_multiprocessor", &card.threads_per_multiprocessor},
            {"blocks_per_multiprocessor", &card.blocks_per_multiprocessor}, {"l2_bytes", &card.l2_bytes},
        };
        for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
            if (!strcmp(field, numbers[i].name)) *numbers[i].number = atoi(value);
        if (!strcmp(field, "name")) snprintf(card.name, sizeof card.name, "%s", value);
        if (!strcmp(field, "total_bytes")) card.total_bytes = strtoull(value, NULL, 10);
        if (!strcmp(field, "context_bytes")) card.context_bytes = strtoull(value, NULL, 10);
    }
    free(copy);
    const char *cards = getenv("LORA_PROFILER_CARDS");
    count = cards && *cards ? atoi(cards) : 1;
    if (count > MOST_CARDS) count = MOST_CARDS;
    /* all cards are alike, so only the length of the list matters */
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    if (!visible) return;
    int listed = 0;
    for (const char *at = visible; *at && *at != '-'; at++) listed += at == visible || at[-1] == ',';
    if (listed < count) count = listed;
}
const Card *pretended_card(void) { pthread_once(&card_once, read_card); return &card; }
int pretended_count(void) { pretended_card(); return count; }
int pretended_current(void) { return current; }
void pretended_set_current(int device) { current = device; }
