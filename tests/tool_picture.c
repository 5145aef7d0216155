/* tool_picture.c - draws the two pictures of MAP.md and LOOP.md as SVG, for tools/map.sh.
 *
 *   tool_picture floors <LIST     the house: what each room rests on
 *   tool_picture loop <LIST       a cycle: what each stage reads and writes
 *
 * LIST has a fact a line, its parts separated by tabs. Of the floors, from the ground up:
 *   floor NAME;  room NAME HALF ("engine" or "product");  rests UPPER LOWER
 * Of the loop, in order:
 *   stage NAME WHAT READS WRITES
 * A picture carries its own colours, for light and for dark pages, and its own ground, so that it
 * can be read where the page does not say which of the two it is.
 */
#include "html.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PARTS = 5, FLOORS = 16, ROOMS = 64, RESTS = 256, STAGES = 16 };

typedef struct {
    char *part[PARTS];
    size_t count;
} Fact;

/* Cuts a line at its tabs, in place. */
static Fact fact_of(char *line)
{
    Fact f = {{line}, 1};
    line[strcspn(line, "\n")] = 0;
    for (char *tab; f.count < PARTS && (tab = strchr(f.part[f.count - 1], '\t')); f.count++) {
        *tab = 0;
        f.part[f.count] = tab + 1;
    }
    return f;
}

/* ---- marks that both pictures share --------------------------------------------------------- */

static const char style[] =
    "<style>\n"
    ".ground{fill:#fbfaf8;stroke:#d9d5cc}.ink{fill:#23221f}.soft{fill:#6b675e}"
    ".band{fill:#f1efe9}.line{fill:none;stroke:#8d887c;stroke-width:1.4}"
    ".tip{fill:#8d887c}.engine{fill:#dbe9f6;stroke:#3d74a8}.product{fill:#f8e6d2;stroke:#b06f23}"
    ".from-engine{stroke:#3d74a8}.from-product{stroke:#b06f23}"
    "text{font:13px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}"
    ".name{font-weight:600}.small{font-size:11.5px}"
    ".file{font:11.5px ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace}\n"
    "@media (prefers-color-scheme:dark){"
    ".ground{fill:#191b1f;stroke:#3a3d44}.ink{fill:#eceae5}.soft{fill:#a8a499}"
    ".band{fill:#212429}.line{stroke:#8f8b80}.tip{fill:#8f8b80}"
    ".engine{fill:#1d3247;stroke:#6aa5dc}.product{fill:#432f18;stroke:#dc9a4e}"
    ".from-engine{stroke:#6aa5dc}.from-product{stroke:#dc9a4e}}\n"
    "</style>\n";

static void picture_begin(Html *h, double width, double height, const char *title)
{
    html_putf(h,
              "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %g %g\" width=\"%g\" "
              "height=\"%g\" role=\"img\">\n<title>%s</title>\n",
              width, height, width, height, title);
    html_put(h, style);
    html_putf(h,
              "<rect class=\"ground\" x=\".5\" y=\".5\" width=\"%g\" height=\"%g\" rx=\"8\"/>\n",
              width - 1, height - 1);
}

static void put_text(Html *h, const char *class, double x, double y, const char *anchor,
                     const char *text)
{
    html_putf(h, "<text class=\"%s\" x=\"%g\" y=\"%g\" text-anchor=\"%s\">", class, x, y, anchor);
    html_string(h, text);
    html_put(h, "</text>\n");
}

static void put_box(Html *h, const char *class, double x, double y, double width, double height)
{
    html_putf(h,
              "<rect class=\"%s\" x=\"%g\" y=\"%g\" width=\"%g\" height=\"%g\" rx=\"5\" "
              "stroke-width=\"1.3\"/>\n",
              class, x, y, width, height);
}

/* The point of an arrow that ends at (x, y) and goes to the right, left or downwards. */
static void put_tip(Html *h, double x, double y, double dx, double dy)
{
    const double length = 7, half = 3.6;
    html_putf(h, "<path class=\"tip\" d=\"M%g %gL%g %gL%g %gz\"/>\n", x, y,
              x - length * dx - half * dy, y - length * dy - half * dx, x - length * dx + half * dy,
              y - length * dy + half * dx);
}

/* ---- the floors ------------------------------------------------------------------------------ */

typedef struct {
    char name[32], half[16];
    size_t floor, place; /* place on its floor, from the left */
} Room;

typedef struct {
    char name[48];
    size_t rooms;
} Floor;

typedef struct {
    Floor floors[FLOORS];
    Room rooms[ROOMS];
    struct {
        size_t upper, lower;
    } rests[RESTS];
    size_t n_floors, n_rooms, n_rests;
    size_t passed[FLOORS][ROOMS]; /* lines so far through a gap between rooms */
} House;

enum { MARGIN = 14, HEAD = 40, LEFT = 170, ROOM_WIDTH = 92, ROOM_HEIGHT = 30, STOREY = 70 };
enum { HOUSE_WIDTH = 900 };

static size_t room_find(const House *house, const char *name)
{
    size_t i = 0;
    while (i < house->n_rooms && strcmp(house->rooms[i].name, name)) i++;
    return i;
}

static int house_read(House *house, FILE *in)
{
    char line[1024];
    while (fgets(line, sizeof line, in)) {
        Fact f = fact_of(line);
        if (!strcmp(f.part[0], "floor") && f.count == 2 && house->n_floors < FLOORS) {
            Floor *floor = &house->floors[house->n_floors++];
            snprintf(floor->name, sizeof floor->name, "%s", f.part[1]);
        } else if (!strcmp(f.part[0], "room") && f.count == 3 && house->n_floors &&
                   house->n_rooms < ROOMS) {
            Room *room = &house->rooms[house->n_rooms++];
            snprintf(room->name, sizeof room->name, "%s", f.part[1]);
            snprintf(room->half, sizeof room->half, "%s", f.part[2]);
            room->floor = house->n_floors - 1;
            room->place = house->floors[room->floor].rooms++;
        } else if (!strcmp(f.part[0], "rests") && f.count == 3 && house->n_rests < RESTS) {
            size_t upper = room_find(house, f.part[1]), lower = room_find(house, f.part[2]);
            if (upper == house->n_rooms || lower == house->n_rooms) return -1;
            house->rests[house->n_rests].upper = upper;
            house->rests[house->n_rests++].lower = lower;
        } else {
            return -1;
        }
    }
    return house->n_rooms ? 0 : -1;
}

/* The middle of a room. Rooms of a floor share its width evenly; the ground floor is the lowest. */
static double room_x(const House *house, const Room *room)
{
    double share = (double)(HOUSE_WIDTH - LEFT - MARGIN) / (double)house->floors[room->floor].rooms;
    return LEFT + share * ((double)room->place + 0.5);
}

static double room_y(const House *house, const Room *room)
{
    return HEAD + STOREY * ((double)(house->n_floors - 1 - room->floor) + 0.5);
}

/* A bend from (x0, y0) down to (x1, y1), upright at both ends. */
static void put_bend(Html *h, double x0, double y0, double x1, double y1)
{
    double half = (y1 - y0) / 2;
    html_putf(h, "C%g %g %g %g %g %g", x0, y0 + half, x1, y1 - half, x1, y1);
}

/* Where a line that would cross a floor at x can do so: the nearest gap between two rooms or beside
 * them, a little further on for each line that is there already. */
static double find_gap(House *house, size_t floor, double x)
{
    const double apart = 6;
    size_t rooms = house->floors[floor].rooms, best = 0;
    double share = (double)(HOUSE_WIDTH - LEFT - MARGIN) / (double)rooms, nearest = 1e9, at = 0;
    for (size_t i = 0; i <= rooms; i++) {
        double gap = LEFT + share * (double)i, off = gap > x ? gap - x : x - gap;
        if (off < nearest) nearest = off, best = i, at = gap;
    }
    size_t before = house->passed[floor][best]++;
    double aside = apart * (double)((before + 1) / 2) * (before % 2 ? 1 : -1);
    return at + aside - (best == rooms ? 2 * apart : 0);
}

/* A line from a room to one that it rests on: down to a lower floor, or to the left. */
static void put_rest(Html *h, House *house, const Room *upper, const Room *lower)
{
    const double half = ROOM_HEIGHT / 2.0;
    double x0 = room_x(house, upper), y0 = room_y(house, upper);
    double x1 = room_x(house, lower), y1 = room_y(house, lower);
    html_putf(h, "<path class=\"line from-%s\" d=\"", upper->half);
    if (upper->floor == lower->floor && upper->place == lower->place + 1) {
        html_putf(h, "M%g %gH%g", x0 - ROOM_WIDTH / 2.0, y0, x1 + ROOM_WIDTH / 2.0);
    } else if (upper->floor == lower->floor) { /* below the rooms between them */
        double y = y0 + half, down = y + STOREY - ROOM_HEIGHT;
        html_putf(h, "M%g %gC%g %g %g %g %g %g", x0, y, x0, down, x1, down, x1, y);
    } else {
        double x = x0, y = y0 + half;
        html_putf(h, "M%g %g", x, y);
        for (size_t floor = upper->floor - 1; floor > lower->floor; floor--) {
            double down = y0 + STOREY * (double)(upper->floor - floor);
            double gap = find_gap(house, floor, x + (x1 - x) * STOREY / (y1 - y));
            put_bend(h, x, y, gap, down - half);
            x = gap, y = down + half;
            html_putf(h, "V%g", y);
        }
        put_bend(h, x, y, x1, y1 - half);
    }
    html_put(h, "\"/>\n");
}

static void put_house(Html *h, House *house)
{
    double height = HEAD + STOREY * (double)house->n_floors + MARGIN;
    picture_begin(h, HOUSE_WIDTH, height, "The floors of align: each room rests on those below it");
    put_text(h, "ink name", MARGIN + 8, 26, "start", "What rests on what");
    put_box(h, "engine", LEFT + 30, 13, 16, 16);
    put_text(h, "ink small", LEFT + 52, 26, "start", "engine: computes");
    put_box(h, "product", LEFT + 180, 13, 16, 16);
    put_text(h, "ink small", LEFT + 202, 26, "start", "product: judges, decides, shows");
    for (size_t i = 0; i < house->n_floors; i++) {
        double top = HEAD + STOREY * (double)(house->n_floors - 1 - i);
        html_putf(h,
                  "<rect class=\"band\" x=\"%d\" y=\"%g\" width=\"%d\" height=\"%d\" rx=\"5\"/>\n",
                  MARGIN, top + 3, HOUSE_WIDTH - 2 * MARGIN, STOREY - 6);
        put_text(h, "soft small", MARGIN + 12, top + STOREY / 2.0 + 4, "start",
                 house->floors[i].name);
    }
    for (size_t i = 0; i < house->n_rests; i++)
        put_rest(h, house, &house->rooms[house->rests[i].upper],
                 &house->rooms[house->rests[i].lower]);
    for (size_t i = 0; i < house->n_rooms; i++) {
        const Room *room = &house->rooms[i];
        double x = room_x(house, room), y = room_y(house, room);
        put_box(h, room->half, x - ROOM_WIDTH / 2.0, y - ROOM_HEIGHT / 2.0, ROOM_WIDTH,
                ROOM_HEIGHT);
        put_text(h, "ink name", x, y + 4.5, "middle", room->name);
    }
    html_put(h, "</svg>\n");
}

/* ---- the loop -------------------------------------------------------------------------------- */

enum { LOOP_WIDTH = 900, STEP = 62, STAGE_X = 318, STAGE_WIDTH = 264, STAGE_HEIGHT = 44 };

typedef struct {
    char name[32], what[96], reads[160], writes[160];
} Stage;

static int stages_read(Stage stages[STAGES], size_t *count, FILE *in)
{
    char line[1024];
    for (*count = 0; fgets(line, sizeof line, in); ++*count) {
        Fact f = fact_of(line);
        if (strcmp(f.part[0], "stage") || f.count != 5 || *count == STAGES) return -1;
        Stage *s = &stages[*count];
        snprintf(s->name, sizeof s->name, "%s", f.part[1]);
        snprintf(s->what, sizeof s->what, "%s", f.part[2]);
        snprintf(s->reads, sizeof s->reads, "%s", f.part[3]);
        snprintf(s->writes, sizeof s->writes, "%s", f.part[4]);
    }
    return *count ? 0 : -1;
}

/* Files separated by ", ", one above the other, around the height y. */
static void put_files(Html *h, const char *files, double x, double y, const char *anchor)
{
    const double line = 15;
    size_t count = 1;
    for (const char *c = files; (c = strstr(c, ", ")); c++) count++;
    double at = y - line * ((double)count - 1) / 2 + 4;
    while (*files) {
        char one[160];
        size_t n = strcspn(files, ",");
        snprintf(one, sizeof one, "%.*s", (int)n, files);
        put_text(h, "ink file", x, at, anchor, one);
        at += line;
        files += n + strspn(files + n, ", ");
    }
}

static void put_arrow(Html *h, double x0, double x1, double y)
{
    html_putf(h, "<path class=\"line\" d=\"M%g %gH%g\"/>\n", x0, y, x1 - 4);
    put_tip(h, x1, y, 1, 0);
}

/* From the stage "select" back to "generate", round the files that are read. */
static void put_return(Html *h, const Stage *stages, size_t count)
{
    const double out = 22, corner = 10;
    size_t from = 0, to = 0;
    for (size_t i = 0; i < count; i++) {
        if (!strcmp(stages[i].name, "select")) from = i;
        if (!strcmp(stages[i].name, "generate")) to = i;
    }
    const double aside = 18; /* from the middle of a stage: beyond the names of its files */
    double y0 = HEAD + STEP * ((double)from + 0.5) + aside;
    double y1 = HEAD + STEP * ((double)to + 0.5) - aside;
    html_putf(h, "<path class=\"line\" d=\"M%d %gH%gq%g 0 %g %gV%gq0 %g %g %gH%d\"/>\n", STAGE_X,
              y0, out + corner, -corner, -corner, -corner, y1 + corner, -corner, corner, -corner,
              STAGE_X - 4);
    put_tip(h, STAGE_X, y1, 1, 0);
    html_putf(h,
              "<text class=\"soft small\" transform=\"translate(%g %g) rotate(-90)\" "
              "text-anchor=\"middle\">next cycle, from the policy that was selected</text>\n",
              out + 16, (y0 + y1) / 2);
}

static void put_loop(Html *h, const Stage *stages, size_t count)
{
    const double middle = STAGE_X + STAGE_WIDTH / 2.0;
    picture_begin(h, LOOP_WIDTH, HEAD + STEP * (double)count + MARGIN,
                  "The loop of align cycle: what each stage reads and writes");
    put_text(h, "soft small", STAGE_X - 26, 26, "end", "reads");
    put_text(h, "ink name", middle, 26, "middle", "stage");
    put_text(h, "soft small", STAGE_X + STAGE_WIDTH + 26, 26, "start", "writes");
    put_return(h, stages, count);
    for (size_t i = 0; i < count; i++) {
        double y = HEAD + STEP * ((double)i + 0.5), top = y - STAGE_HEIGHT / 2.0;
        put_box(h, !strcmp(stages[i].name, "train") ? "engine" : "product", STAGE_X, top,
                STAGE_WIDTH, STAGE_HEIGHT);
        put_text(h, "ink name", middle, y - 3, "middle", stages[i].name);
        put_text(h, "ink small", middle, y + 13, "middle", stages[i].what);
        put_files(h, stages[i].reads, STAGE_X - 26, y, "end");
        put_arrow(h, STAGE_X - 22, STAGE_X, y);
        put_files(h, stages[i].writes, STAGE_X + STAGE_WIDTH + 26, y, "start");
        put_arrow(h, STAGE_X + STAGE_WIDTH, STAGE_X + STAGE_WIDTH + 22, y);
        if (i + 1 < count) {
            html_putf(h, "<path class=\"line\" d=\"M%g %gV%g\"/>\n", middle, top + STAGE_HEIGHT,
                      top + STEP - 4);
            put_tip(h, middle, top + STEP, 0, 1);
        }
    }
    html_put(h, "</svg>\n");
}

int main(int argc, char **argv)
{
    static House house;
    static Stage stages[STAGES];
    size_t count;
    Err e = {0};
    Html h = {.e = &e};
    int bad;
    if (argc == 2 && !strcmp(argv[1], "floors")) {
        bad = house_read(&house, stdin);
        if (!bad) put_house(&h, &house);
    } else if (argc == 2 && !strcmp(argv[1], "loop")) {
        bad = stages_read(stages, &count, stdin);
        if (!bad) put_loop(&h, stages, count);
    } else {
        fprintf(stderr, "usage: tool_picture floors|loop <LIST\n");
        return ERR_USAGE;
    }
    if (bad) fprintf(stderr, "tool_picture: the list has a line of a kind that it does not know\n");
    if (h.failed) fprintf(stderr, "tool_picture: %s\n", e.text);
    if (!bad && !h.failed && fwrite(h.text.data, 1, h.text.len, stdout) != h.text.len)
        bad = fprintf(stderr, "tool_picture: standard output cannot be written\n");
    text_free(&h.text);
    return bad || h.failed;
}
