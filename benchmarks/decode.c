/* A Llama that reads a token at a time, in plain C, in the manner of Karpathy's llama2.c: a loop for
   each operation, rows of matrices and heads shared by threads, and the compiler does the rest. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    int vocab, dim, layers, heads, kv_heads, head_dim, ffn, context;
    float rope_theta, norm_eps;
} Config;

typedef struct {
    const float *attention_norm, *query, *key, *value, *output, *ffn_norm, *gate, *up, *down;
} Layer;

typedef struct {
    const float *embedding, *norm, *head;
    Layer layers[];
} Params;

typedef struct {
    float *x, *normed, *q, *attended, *scores, *gate, *up, *logits, *keys, *values;
} State;

static float *room(size_t count) { return calloc(count, sizeof(float)); }

State *begin(const Config *c) {
    State *s = malloc(sizeof(State));
    size_t q = (size_t)c->heads * c->head_dim, kv = (size_t)c->kv_heads * c->head_dim;
    *s = (State){
        room(c->dim), room(c->dim), room(q), room(q), room((size_t)c->heads * c->context),
        room(c->ffn), room(c->ffn), room(c->vocab),
        room(c->layers * c->context * kv), room(c->layers * c->context * kv),
    };
    return s;
}

static void norm(float *y, const float *x, const float *gain, int n, float eps) {
    float squares = 0.0f;
    for (int i = 0; i < n; i++) squares += x[i] * x[i];
    float scale = 1.0f / sqrtf(squares / n + eps);
    for (int i = 0; i < n; i++) y[i] = gain[i] * (scale * x[i]);
}

/* y = W x, for W of so many rows and columns. */
static void product(float *y, const float *w, const float *x, int rows, int columns) {
#pragma omp parallel for
    for (int i = 0; i < rows; i++) {
        float sum = 0.0f;
        for (int j = 0; j < columns; j++) sum += w[(size_t)i * columns + j] * x[j];
        y[i] = sum;
    }
}

/* Turn the pairs (i, i + C/2) of each head. */
static void rotate(float *x, int heads, int c, int position, float theta) {
    for (int i = 0; i < c / 2; i++) {
        float angle = position * powf(theta, -2.0f * i / c), co = cosf(angle), si = sinf(angle);
        for (int h = 0; h < heads; h++) {
            float *a = x + h * c + i, *b = a + c / 2, before = *a;
            *a = before * co - *b * si;
            *b = *b * co + before * si;
        }
    }
}

static void attend(const Config *c, State *s, const float *keys, const float *values, int position) {
    int width = c->head_dim, kv = c->kv_heads * width, shared = c->heads / c->kv_heads;
#pragma omp parallel for
    for (int h = 0; h < c->heads; h++) {
        const float *q = s->q + h * width;
        float *scores = s->scores + h * c->context, *out = s->attended + h * width;
        float most = -INFINITY, sum = 0.0f;
        for (int t = 0; t <= position; t++) {
            const float *key = keys + (size_t)t * kv + h / shared * width;
            float score = 0.0f;
            for (int i = 0; i < width; i++) score += q[i] * key[i];
            scores[t] = score / sqrtf(width);
            if (scores[t] > most) most = scores[t];
        }
        for (int t = 0; t <= position; t++) sum += scores[t] = expf(scores[t] - most);
        memset(out, 0, width * sizeof(float));
        for (int t = 0; t <= position; t++) {
            const float *value = values + (size_t)t * kv + h / shared * width;
            float weight = scores[t] / sum;
            for (int i = 0; i < width; i++) out[i] += weight * value[i];
        }
    }
}

/* The logits behind a token at a position, those before it having been read. */
const float *forward(const Config *c, const Params *p, State *s, int token, int position) {
    int q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    memcpy(s->x, p->embedding + (size_t)token * c->dim, c->dim * sizeof(float));
    for (int l = 0; l < c->layers; l++) {
        const Layer *w = &p->layers[l];
        float *keys = s->keys + (size_t)l * c->context * kv;
        float *values = s->values + (size_t)l * c->context * kv;
        float *k = keys + (size_t)position * kv, *v = values + (size_t)position * kv;
        norm(s->normed, s->x, w->attention_norm, c->dim, c->norm_eps);
        product(s->q, w->query, s->normed, q, c->dim);
        product(k, w->key, s->normed, kv, c->dim);
        product(v, w->value, s->normed, kv, c->dim);
        rotate(s->q, c->heads, c->head_dim, position, c->rope_theta);
        rotate(k, c->kv_heads, c->head_dim, position, c->rope_theta);
        attend(c, s, keys, values, position);
        product(s->normed, w->output, s->attended, c->dim, q);
        for (int i = 0; i < c->dim; i++) s->x[i] += s->normed[i];
        norm(s->normed, s->x, w->ffn_norm, c->dim, c->norm_eps);
        product(s->gate, w->gate, s->normed, c->ffn, c->dim);
        product(s->up, w->up, s->normed, c->ffn, c->dim);
        for (int i = 0; i < c->ffn; i++) s->gate[i] *= s->up[i] / (1.0f + expf(-s->gate[i]));
        product(s->normed, w->down, s->gate, c->dim, c->ffn);
        for (int i = 0; i < c->dim; i++) s->x[i] += s->normed[i];
    }
    norm(s->x, s->x, p->norm, c->dim, c->norm_eps);
    product(s->logits, p->head, s->x, c->vocab, c->dim);
    return s->logits;
}
