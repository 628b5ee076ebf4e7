/* The operations of an exported network, for one image. Each part below starts with its name; an exported
   file holds the parts that its network uses. Arrays are planes (channels, height, width), row by row. */

//== Window
/* Where a window of kh x kw pixels, its taps dh and dw apart, stands: the top left tap of output (i, j)
   looks at the pixel (i*sh - top, j*sw - left). */
typedef struct {
    int c, h, w;    /* input: channels, height, width */
    int k, oh, ow;  /* output: channels, height, width */
    int kh, kw, sh, sw, dh, dw, top, left;
    int groups, count_pad, bottom, right;
} Window;

//== columns
/* The outputs first <= j < end whose tap v lies inside of a row: 0 <= j*sw - left + v*dw < w. */
static void columns(const Window *p, int v, int *first, int *end)
{
    const int shift = v * p->dw - p->left;
    *first = shift >= 0 ? 0 : (-shift + p->sw - 1) / p->sw;
    *end = p->w - shift <= 0 ? 0 : (p->w - shift + p->sw - 1) / p->sw;
    if (*end > p->ow)
        *end = p->ow;
}

//== Conv2d columns Window
/* y[k,i,j] = bias[k] + sum over c,u,v of weight[k,c,u,v] * x[g(k) + c, i*sh - top + u*dh, j*sw - left + v*dw]

   x outside of the image is 0, so those taps are left out. The innermost loop runs along a row, where x and y
   lie side by side, and a plane of y stays in the cache while all taps are added to it. */
static void conv2d(const float *restrict x, const float *restrict weight, const float *restrict bias,
                   float *restrict y, const Window *p)
{
    const int channels = p->c / p->groups, filters = p->k / p->groups;
    for (int k = 0; k < p->k; k++) {
        const float *image = x + (size_t)(k / filters) * channels * p->h * p->w;
        float *plane = y + (size_t)k * p->oh * p->ow;
        for (int j = 0; j < p->oh * p->ow; j++)
            plane[j] = bias ? bias[k] : 0.0f;
        for (int c = 0; c < channels; c++)
            for (int u = 0; u < p->kh; u++)
                for (int v = 0; v < p->kw; v++) {
                    const float tap = weight[(((size_t)k * channels + c) * p->kh + u) * p->kw + v];
                    const int shift = v * p->dw - p->left;
                    int first, end;
                    columns(p, v, &first, &end);
                    for (int i = 0; i < p->oh; i++) {
                        const int r = i * p->sh - p->top + u * p->dh;
                        if (r < 0 || r >= p->h)
                            continue;
                        const float *pixels = image + ((size_t)c * p->h + r) * p->w;
                        float *row = plane + (size_t)i * p->ow;
                        if (p->sw == 1)
                            for (int j = first; j < end; j++)
                                row[j] += tap * pixels[j + shift];
                        else
                            for (int j = first; j < end; j++)
                                row[j] += tap * pixels[j * p->sw + shift];
                    }
                }
    }
}

//== ConvTranspose2d Window
/* y[k,a,b] = bias[k] + sum of weight[c,k,u,v] * x[c,i,j] over those with i*sh - top + u*dh = a and
   j*sw - left + v*dw = b: every pixel of x spreads over a window of y. */
static void conv_transpose2d(const float *restrict x, const float *restrict weight,
                             const float *restrict bias, float *restrict y, const Window *p)
{
    const int channels = p->c / p->groups, filters = p->k / p->groups;
    for (int k = 0; k < p->k; k++)
        for (int a = 0; a < p->oh * p->ow; a++)
            y[(size_t)k * p->oh * p->ow + a] = bias ? bias[k] : 0.0f;
    for (int c = 0; c < p->c; c++)
        for (int f = 0; f < filters; f++) {
            const int k = c / channels * filters + f;
            for (int u = 0; u < p->kh; u++)
                for (int v = 0; v < p->kw; v++) {
                    const float tap = weight[(((size_t)c * filters + f) * p->kh + u) * p->kw + v];
                    for (int i = 0; i < p->h; i++) {
                        const int a = i * p->sh - p->top + u * p->dh;
                        if (a < 0 || a >= p->oh)
                            continue;
                        for (int j = 0; j < p->w; j++) {
                            const int b = j * p->sw - p->left + v * p->dw;
                            if (b >= 0 && b < p->ow)
                                y[((size_t)k * p->oh + a) * p->ow + b] +=
                                    tap * x[((size_t)c * p->h + i) * p->w + j];
                        }
                    }
                }
        }
}

//== MaxPool2d Window
/* y[c,i,j] = max over u,v of x[c, i*sh - top + u*dh, j*sw - left + v*dw]; a NaN wins. */
static void max_pool2d(const float *restrict x, float *restrict y, const Window *p)
{
    for (int c = 0; c < p->c; c++)
        for (int i = 0; i < p->oh; i++)
            for (int j = 0; j < p->ow; j++) {
                float best = -INFINITY;
                for (int u = 0; u < p->kh; u++)
                    for (int v = 0; v < p->kw; v++) {
                        const int r = i * p->sh - p->top + u * p->dh, q = j * p->sw - p->left + v * p->dw;
                        if (r < 0 || r >= p->h || q < 0 || q >= p->w)
                            continue;
                        const float value = x[((size_t)c * p->h + r) * p->w + q];
                        if (value > best || value != value)
                            best = value;
                    }
                y[((size_t)c * p->oh + i) * p->ow + j] = best;
            }
}

//== AvgPool2d Window
/* y[c,i,j] = 1/m * sum over u,v of x[c, i*sh - top + u, j*sw - left + v]; m counts the taps inside of the
   image, with count_pad those of the padding as well. */
static void avg_pool2d(const float *restrict x, float *restrict y, const Window *p)
{
    for (int c = 0; c < p->c; c++)
        for (int i = 0; i < p->oh; i++)
            for (int j = 0; j < p->ow; j++) {
                float sum = 0.0f;
                int inside = 0, padded = 0;
                for (int u = 0; u < p->kh; u++)
                    for (int v = 0; v < p->kw; v++) {
                        const int r = i * p->sh - p->top + u * p->dh, q = j * p->sw - p->left + v * p->dw;
                        padded += r < p->h + p->bottom && q < p->w + p->right;
                        if (r < 0 || r >= p->h || q < 0 || q >= p->w)
                            continue;
                        inside++;
                        sum += x[((size_t)c * p->h + r) * p->w + q];
                    }
                y[((size_t)c * p->oh + i) * p->ow + j] = sum / (float)(p->count_pad ? padded : inside);
            }
}

//== GlobalAvgPool2d
/* y[c] = 1/n * sum over the n pixels of plane c */
static void global_avg_pool2d(const float *restrict x, float *restrict y, int channels, int n)
{
    for (int c = 0; c < channels; c++) {
        float sum = 0.0f;
        for (int i = 0; i < n; i++)
            sum += x[(size_t)c * n + i];
        y[c] = sum / (float)n;
    }
}

//== GlobalMaxPool2d
/* y[c] = max over the n pixels of plane c; a NaN wins. */
static void global_max_pool2d(const float *restrict x, float *restrict y, int channels, int n)
{
    for (int c = 0; c < channels; c++) {
        y[c] = x[(size_t)c * n];
        for (int i = 1; i < n; i++)
            if (x[(size_t)c * n + i] > y[c] || x[(size_t)c * n + i] != x[(size_t)c * n + i])
                y[c] = x[(size_t)c * n + i];
    }
}

//== Linear
/* y[o] = bias[o] + sum over i of weight[o,i] * x[i]

   Eight sums side by side: the compiler may then use vectors without changing the order of any sum. */
static void linear(const float *restrict x, const float *restrict weight, const float *restrict bias,
                   float *restrict y, int in, int out)
{
    for (int o = 0; o < out; o++) {
        const float *row = weight + (size_t)o * in;
        float lanes[8] = {0}, sum = bias ? bias[o] : 0.0f;
        int i = 0;
        for (; i + 8 <= in; i += 8)
            for (int l = 0; l < 8; l++)
                lanes[l] += row[i + l] * x[i + l];
        for (; i < in; i++)
            sum += row[i] * x[i];
        for (int l = 0; l < 8; l++)
            sum += lanes[l];
        y[o] = sum;
    }
}

//== BatchNorm
/* y[c,i] = (x[c,i] - mean[c]) / sqrt(var[c] + eps) * weight[c] + bias[c] = scale[c] * x[c,i] + shift[c] */
static void batch_norm(const float *restrict x, const float *restrict scale, const float *restrict shift,
                       float *restrict y, int channels, int n)
{
    for (int c = 0; c < channels; c++)
        for (int i = 0; i < n; i++)
            y[(size_t)c * n + i] = scale[c] * x[(size_t)c * n + i] + shift[c];
}

//== ReLU
/* y = max(x, 0) */
static void relu(const float *restrict x, float *restrict y, int n)
{
    for (int i = 0; i < n; i++)
        y[i] = x[i] < 0.0f ? 0.0f : x[i];
}

//== LeakyReLU
/* y = x where x > 0, else slope * x */
static void leaky_relu(const float *restrict x, float *restrict y, int n, float slope)
{
    for (int i = 0; i < n; i++)
        y[i] = x[i] > 0.0f ? x[i] : slope * x[i];
}

//== GELU
/* y = x * Phi(x) = x/2 * (1 + erf(x / sqrt(2))) */
static void gelu(const float *restrict x, float *restrict y, int n)
{
    for (int i = 0; i < n; i++)
        y[i] = 0.5f * x[i] * erfcf(-0.70710678118654752f * x[i]);
}

//== GELU_tanh
/* y = x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))) */
static void gelu_tanh(const float *restrict x, float *restrict y, int n)
{
    for (int i = 0; i < n; i++)
        y[i] = 0.5f * x[i] * (1.0f + tanhf(0.79788456080286536f * (x[i] + 0.044715f * x[i] * x[i] * x[i])));
}

//== Sigmoid
/* y = 1 / (1 + exp(-x)) */
static void sigmoid(const float *restrict x, float *restrict y, int n)
{
    for (int i = 0; i < n; i++)
        y[i] = 1.0f / (1.0f + expf(-x[i]));
}

//== SiLU
/* y = x / (1 + exp(-x)) */
static void silu(const float *restrict x, float *restrict y, int n)
{
    for (int i = 0; i < n; i++)
        y[i] = x[i] / (1.0f + expf(-x[i]));
}

//== Tanh
/* y = tanh(x) */
static void hyperbolic_tangent(const float *restrict x, float *restrict y, int n)
{
    for (int i = 0; i < n; i++)
        y[i] = tanhf(x[i]);
}

//== Scale
/* y = factor * x */
static void scale(const float *restrict x, float *restrict y, int n, float factor)
{
    for (int i = 0; i < n; i++)
        y[i] = factor * x[i];
}

//== ReLU6
/* y = min(max(x, 0), 6) */
static void relu6(const float *restrict x, float *restrict y, int n)
{
    for (int i = 0; i < n; i++)
        y[i] = x[i] < 0.0f ? 0.0f : x[i] > 6.0f ? 6.0f : x[i];
}

//== Hardtanh
/* y = min(max(x, low), high) */
static void hardtanh(const float *restrict x, float *restrict y, int n, float low, float high)
{
    for (int i = 0; i < n; i++)
        y[i] = x[i] < low ? low : x[i] > high ? high : x[i];
}

//== Hardsigmoid
/* y = min(max(x/6 + 1/2, 0), 1) */
static void hardsigmoid(const float *restrict x, float *restrict y, int n)
{
    for (int i = 0; i < n; i++) {
        const float line = x[i] / 6.0f + 0.5f;
        y[i] = line < 0.0f ? 0.0f : line > 1.0f ? 1.0f : line;
    }
}

//== Hardswish
/* y = x * min(max(x/6 + 1/2, 0), 1) */
static void hardswish(const float *restrict x, float *restrict y, int n)
{
    for (int i = 0; i < n; i++) {
        const float line = x[i] / 6.0f + 0.5f;
        y[i] = x[i] * (line < 0.0f ? 0.0f : line > 1.0f ? 1.0f : line);
    }
}

//== ELU
/* y = x where x > 0, else alpha * (exp(x) - 1) */
static void elu(const float *restrict x, float *restrict y, int n, float alpha)
{
    for (int i = 0; i < n; i++)
        y[i] = x[i] > 0.0f ? x[i] : alpha * expm1f(x[i]);
}

//== Softplus
/* y = log(1 + exp(beta * x)) / beta, or x where beta * x > threshold */
static void softplus(const float *restrict x, float *restrict y, int n, float beta, float threshold)
{
    for (int i = 0; i < n; i++) {
        const float z = beta * x[i];
        const float smooth = (z > 0.0f ? z : 0.0f) + log1pf(expf(-fabsf(z)));
        y[i] = z > threshold ? x[i] : smooth / beta;
    }
}

//== PReLU
/* y[c,i] = x[c,i] where x[c,i] > 0, else weight[c] * x[c,i]; step is 0 where there is one weight only. */
static void prelu(const float *restrict x, const float *restrict weight, float *restrict y, int channels,
                  int n, int step)
{
    for (int c = 0; c < channels; c++)
        for (int i = c * n; i < (c + 1) * n; i++)
            y[i] = x[i] > 0.0f ? x[i] : weight[c * step] * x[i];
}

//== GroupNorm
/* y = (x - mean) / sqrt(variance + eps) * weight + bias, mean and variance over the size numbers of a group;
   each weight stands for n numbers side by side: a plane, or one number in layer normalisation. */
static void group_norm(const float *restrict x, const float *restrict weight, const float *restrict bias,
                       float *restrict y, int groups, int size, int n, float eps)
{
    for (int g = 0; g < groups; g++) {
        double mean = 0.0, variance = 0.0;
        for (int i = g * size; i < (g + 1) * size; i++)
            mean += x[i];
        mean /= size;
        for (int i = g * size; i < (g + 1) * size; i++)
            variance += (x[i] - mean) * (x[i] - mean);
        const double rstd = 1.0 / sqrt(variance / size + eps);
        for (int i = g * size; i < (g + 1) * size; i++)
            y[i] = (float)((x[i] - mean) * rstd) * (weight ? weight[i / n] : 1.0f) + (bias ? bias[i / n] : 0.0f);
    }
}

//== LocalResponseNorm
/* y[c] = x[c] * (k + scale * sum of x[i]^2 over c - before <= i <= c + after)^(-beta), at each of n pixels */
static void local_response_norm(const float *restrict x, float *restrict y, int channels, int n, int before,
                                int after, float scale, float beta, float k)
{
    for (int c = 0; c < channels; c++)
        for (int j = 0; j < n; j++) {
            float sum = 0.0f;
            for (int i = c < before ? 0 : c - before; i <= c + after && i < channels; i++)
                sum += x[(size_t)i * n + j] * x[(size_t)i * n + j];
            y[(size_t)c * n + j] = x[(size_t)c * n + j] * powf(k + scale * sum, -beta);
        }
}

//== Upsample
/* y[c,i,j] = x[c, i / sh, j / sw]: every pixel becomes a block of sh x sw. */
static void upsample(const float *restrict x, float *restrict y, int channels, int h, int w, int sh, int sw)
{
    for (int r = 0; r < channels * h * sh; r++)
        for (int j = 0; j < w * sw; j++)
            y[(size_t)r * w * sw + j] = x[(size_t)(r / sh) * w + j / sw];
}

//== ZeroPad2d
/* y[c,i,j] = x[c, i - top, j - left], 0 outside of x */
static void zero_pad2d(const float *restrict x, float *restrict y, int channels, int h, int w, int oh, int ow,
                       int top, int left)
{
    for (int c = 0; c < channels; c++)
        for (int i = 0; i < oh; i++)
            for (int j = 0; j < ow; j++) {
                const int r = i - top, q = j - left, inside = r >= 0 && r < h && q >= 0 && q < w;
                y[((size_t)c * oh + i) * ow + j] = inside ? x[((size_t)c * h + r) * w + q] : 0.0f;
            }
}

//== Mul
/* y[c,i,j] = a[c,i,j] * b[c,i,j]; the steps of an axis that is repeated are 0. */
static void multiply(const float *a, const float *b, float *restrict y, int channels, int h, int w,
                     const int *as, const int *bs)
{
    for (int c = 0; c < channels; c++)
        for (int i = 0; i < h; i++)
            for (int j = 0; j < w; j++)
                y[((size_t)c * h + i) * w + j] = a[(size_t)c * as[0] + i * as[1] + j * as[2]]
                                                 * b[(size_t)c * bs[0] + i * bs[1] + j * bs[2]];
}

//== Add
/* y = a + b */
static void add(const float *a, const float *b, float *y, int n)
{
    for (int i = 0; i < n; i++)
        y[i] = a[i] + b[i];
}

//== Softmax
/* y[c,i] = exp(x[c,i] - m) / sum over k of exp(x[k,i] - m), m = max over k of x[k,i]: it cancels, and keeps
   exp from overflowing. */
static void softmax(const float *restrict x, float *restrict y, int channels, int n)
{
    for (int i = 0; i < n; i++) {
        float largest = x[i], sum = 0.0f;
        for (int c = 1; c < channels; c++)
            if (x[(size_t)c * n + i] > largest)
                largest = x[(size_t)c * n + i];
        for (int c = 0; c < channels; c++)
            sum += y[(size_t)c * n + i] = expf(x[(size_t)c * n + i] - largest);
        for (int c = 0; c < channels; c++)
            y[(size_t)c * n + i] /= sum;
    }
}

//== LogSoftmax
/* y[c] = x[c] - m - log(sum over k of exp(x[k] - m)), m = max over k of x[k]; for each of the n pixels */
static void log_softmax(const float *restrict x, float *restrict y, int channels, int n)
{
    for (int i = 0; i < n; i++) {
        float largest = x[i], sum = 0.0f;
        for (int c = 1; c < channels; c++)
            if (x[(size_t)c * n + i] > largest)
                largest = x[(size_t)c * n + i];
        for (int c = 0; c < channels; c++)
            sum += expf(x[(size_t)c * n + i] - largest);
        for (int c = 0; c < channels; c++)
            y[(size_t)c * n + i] = x[(size_t)c * n + i] - largest - logf(sum);
    }
}

//== main
/* Read one image: a PGM (P5) or PPM (P6) file of 8 bits, whose middle is cut out and normalised:
   x = (pixel / 255 - mean) / std. Returns 0 when the file is no such image. */
static int read_image(FILE *file, float *x)
{
    static unsigned char pixels[IMAGE_HEIGHT * IMAGE_WIDTH * CHANNELS];
    int numbers[3];
    const int magic = fgetc(file) == 'P' ? fgetc(file) : EOF;
    if (magic != (CHANNELS == 1 ? '5' : CHANNELS == 3 ? '6' : EOF))
        return 0;
    for (int i = 0; i < 3; i++) {
        int next;
        while ((next = fgetc(file)) == '#' || next == ' ' || next == '\t' || next == '\n' || next == '\r')
            while (next == '#' && (next = fgetc(file)) != '\n' && next != EOF)
                next = '#';
        ungetc(next, file);
        if (fscanf(file, "%d", &numbers[i]) != 1)
            return 0;
    }
    fgetc(file);
    if (numbers[0] != IMAGE_WIDTH || numbers[1] != IMAGE_HEIGHT || numbers[2] != 255) {
        fprintf(stderr, "expected an image of %d x %d pixels of 8 bits, found %d x %d\n", IMAGE_WIDTH,
                IMAGE_HEIGHT, numbers[0], numbers[1]);
        return 0;
    }
    if (fread(pixels, 1, sizeof pixels, file) != sizeof pixels)
        return 0;
    for (int c = 0; c < CHANNELS; c++)
        for (int i = 0; i < HEIGHT; i++)
            for (int j = 0; j < WIDTH; j++) {
                const int r = i + CROP_TOP, q = j + CROP_LEFT;
                const int inside = r >= 0 && r < IMAGE_HEIGHT && q >= 0 && q < IMAGE_WIDTH;
                const float pixel = inside ? pixels[(r * IMAGE_WIDTH + q) * CHANNELS + c] / 255.0f : 0.0f;
                x[(c * HEIGHT + i) * WIDTH + j] = (pixel - mean[c]) / std[c];
            }
    return 1;
}

/* Usage: program IMAGE. IMAGE is a PGM or PPM file, or ends with .f32: then it holds float32 numbers, x of
   any number of images one after the other. Prints a blank line after each image, before it for each class its
   output, its answer (a probability, or the output itself) and its name; of a mask, the class of each pixel. */
int main(int count, char **arguments)
{
    static float x[INPUTS], y[OUTPUTS];
    const char *name = count == 2 ? arguments[1] : "";
    const size_t length = strlen(name);
    const int raw = length > 4 && strcmp(name + length - 4, ".f32") == 0;
    FILE *file = count == 2 ? fopen(name, "rb") : NULL;
    int images = 0;
    if (!file) {
        fprintf(stderr, count == 2 ? "%s: cannot be read\n" : "usage: program IMAGE%s\n", name);
        return 2;
    }
    while (raw ? fread(x, sizeof *x, INPUTS, file) == INPUTS : images == 0 && read_image(file, x)) {
        float largest = -INFINITY, sum = 0.0f;
        images++;
        forward(x, y);
        for (int k = 0; k < OUTPUTS; k++)
            largest = y[k] > largest ? y[k] : largest;
        for (int k = 0; k < OUTPUTS; k++)
            sum += expf(y[k] - largest);
        for (int k = 0; k < OUTPUTS && CLASSES == OUTPUTS; k++) {
            const float answer = SOFTMAX ? expf(y[k] - largest) / sum : SIGMOID ? 1 / (1 + expf(-y[k])) : y[k];
            printf("%.9g %.6f %s\n", (double)y[k], (double)answer, classes[k]);
        }
        for (int i = 0; i < OUTPUTS / CLASSES && CLASSES != OUTPUTS; i++) {
            int best = 0;
            for (int k = 1; k < CLASSES; k++)
                best = y[k * (OUTPUTS / CLASSES) + i] > y[best * (OUTPUTS / CLASSES) + i] ? k : best;
            printf("%d%c", best, (i + 1) % OUTPUT_WIDTH ? ' ' : '\n');
        }
        printf("\n");
    }
    fclose(file);
    if (images == 0)
        fprintf(stderr, "%s: no image that this network takes\n", name);
    return images ? 0 : 3;
}
